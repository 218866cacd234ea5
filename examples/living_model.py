"""A model that lives on, in a few lines: a month more, a look at what it cost, and the way back.

python examples/living_model.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.models import create_vlm
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.living import Update, beginning, list_versions, record_first, roll_back, update
from avalanche_vlm.training.settings import TrainSettings


def main(arguments: Sequence[str] | None = None) -> list[Update]:
    """Three months of the picturebook's drift over time.

    :param arguments: words of the command line; the process's by default.
    :return: the updates of the second and third month.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-train", type=int, default=320)
    parser.add_argument("--n-test", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", help="where the versions go (default: a temporary folder)")
    options = parser.parse_args(arguments)
    home = options.out or tempfile.mkdtemp()
    sizes = {"n_train": options.n_train, "n_test": options.n_test, "n_held_out": 200, "n_reference": 64}
    stream = picturebook.time_incremental(n_experiences=3, **sizes)
    model, first = create_vlm("tiny"), beginning(stream, 1)
    settings = TrainSettings(lr=5e-4, epochs=options.epochs, batch_size=64, warmup=2)
    run_experiment(first, "replay", model=model, settings=settings).save(home)
    record_first(home, "v1", first, model)

    done = [update(home, stream, experiences=[month], promote="always") for month in (1, 2)]
    for step in done:
        print(step.version, *(finding.sentence for finding in step.findings), sep="\n  ")
    for version in list_versions(home):
        print("*" if version["current"] else " ", version["version"], version["recipe"], version["scores"])
    print("back to v1 from", roll_back(home, "v1"))
    return done


if __name__ == "__main__":
    main()
