"""What class prompts cost a step of replay, by the templates that train and by how many classes stand for the others.

    python benchmarks/class_prompts.py

The recipe ``replay`` with the tiny model over the eight tasks of the picturebook under the label space ``task``, where
every class of the tasks in a batch competes: once with all templates, once with the first alone, and with a few classes
that are drawn to stand for the others. The trainings go on in turn, task by task, and seconds are of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm import benchmarks, create_vlm, recipes
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training.settings import TrainSettings

WAYS: dict[str, dict[str, Any]] = {
    "all templates": {},
    "first template": {"train_templates": "first"},
    "first template, 8 drawn": {"train_templates": "first", "negatives": 8},
}


class Watch(SupervisedPlugin):
    """Seconds of every step, and the texts that it has encoded."""

    def __init__(self, model: VLM) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.texts: list[int] = []
        self._encoded = 0
        encode = model.encode_text

        def counting(tokens: torch.Tensor, **options: Any) -> torch.Tensor:
            self._encoded += len(tokens)
            return encode(tokens, **options)

        model.encode_text = counting  # type: ignore[method-assign]

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._encoded, self._mark = 0, time.process_time()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._mark)
        self.texts.append(self._encoded)

    def taken(self) -> tuple[float, float]:
        """Medians of milliseconds and of texts since the last call."""
        found = 1000 * statistics.median(self.seconds), statistics.median(self.texts)
        self.seconds.clear()
        self.texts.clear()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-train", type=int, default=192)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = {}
    for way, settings in WAYS.items():
        model = create_vlm("tiny")
        benchmark = benchmarks.create(
            "picturebook", model=model, n_train=options.n_train, n_test=8, n_held_out=8, n_reference=8
        )
        model.set_label_space(benchmark.label_space)
        watch = Watch(model)
        train = TrainSettings(lr=5e-4, epochs=2, **settings)
        plugins = [*recipes.build("replay", model=model), watch]
        runs[way] = strategy_of(model, "classes", train, plugins, device="cpu"), benchmark, watch
    print("| task |" + "".join(f" {way}: texts | ms |" for way in WAYS))
    print("|---|" + "---|---|" * len(WAYS))
    for task, name in enumerate(benchmark.task_names):
        cells = []
        for strategy, of_way, watch in runs.values():
            strategy.train(of_way.train_stream[task])
            ms, texts = watch.taken()
            cells.append(f" {texts:.0f} | {ms:.0f} |")
        print(f"| {name} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
