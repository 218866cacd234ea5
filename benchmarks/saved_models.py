"""Bytes on disk of saved models, by recipe, and whether each answers as it did when it is loaded.

    python benchmarks/saved_models.py --threads 1
    python benchmarks/saved_models.py --threads 1 --recipes lora,zscl --markdown

Every recipe trains two tasks of 256 pictures with the tiny model, in the picturebook's own settings, and is saved. What
is counted: the files that prediction needs, beside the base, which is referred to; ``training.json`` and its tensors,
which ``update`` goes on from; and what ``--embed-base`` would add. Seconds are those of one call.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from avalanche_vlm import create_vlm, load, run_experiment
from avalanche_vlm.artifacts import open_saved
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.outcome import Outcome
from avalanche_vlm.training import recipes
from avalanche_vlm.training.protocol import model_of
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 256, "n_test": 64, "n_held_out": 64, "n_reference": 256}
HEAD = ("recipe", "to predict", "to go on", "its base", "plain", "keeps pictures", "save, s", "load, s", "equal")


def trained(recipe: str) -> Outcome:
    """The recipe's experiment, on classes where it takes them and on pairs otherwise, without an evaluation."""
    classes = "classes" in recipes.get(recipe).kinds
    stream = (
        picturebook.mtil_like(order=["sketches", "night"], **SIZES)
        if classes
        else picturebook.pairs(domains=("sketch", "night"), **SIZES)
    )
    fields, options = recipes.settings_for(recipe, "picturebook")
    torch.manual_seed(0)
    model = create_vlm("tiny")
    return run_experiment(
        stream, recipe, model=model, settings=TrainSettings(**fields), options=options, evaluate=False
    )


def features(model: VLM) -> list[torch.Tensor]:
    """What a model answers to noise."""
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with model.evaluating():
        texts = model.encode_text(model.tokenize(["a red star", "a small blue heart"]))
        found = [model.encode_image(images), texts]
        return found if model.label_space is None else [*found, model(images)]


def row(recipe: str, folder: Path) -> tuple[str, ...]:
    """One line of the table."""
    outcome = trained(recipe)
    started = time.perf_counter()
    outcome.save(folder)
    saved = time.perf_counter()
    model = load(folder)
    loaded = time.perf_counter()
    found = open_saved(folder).description
    sizes = {name: file.bytes for name, file in found.files.items()}
    training = sum(size for name, size in sizes.items() if name.startswith(("training.json", "objects/")))
    description = (folder / "model" / "model.json").stat().st_size
    equal = all(torch.equal(a, b) for a, b in zip(features(model_of(outcome.strategy)), features(model), strict=True))
    outcome.save(folder, embed_base=True, version="v2")
    embedded = open_saved(folder).description.files
    base = sum(file.bytes for name, file in embedded.items() if name.startswith("base/"))
    yes = {True: "yes", False: "no", None: "unknown"}
    return (
        recipe,
        size_of(sum(sizes.values()) - training + description),
        size_of(training),
        size_of(base),
        yes[found.plain],
        yes[found.raw_data],
        f"{saved - started:.2f}",
        f"{loaded - saved:.2f}",
        yes[equal],
    )


def size_of(count: int) -> str:
    """A number of bytes for a reader.

    >>> size_of(512), size_of(2_340_000)
    ('0.5 kB', '2.34 MB')
    """
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=recipes.list())
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| " + " | ".join(HEAD) + " |" if arguments.markdown else "\t".join(HEAD))
    if arguments.markdown:
        print("|" + "---|" * len(HEAD))
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as folder:
            found = row(recipe, Path(folder))
        found = (f"`{found[0]}`", *found[1:]) if arguments.markdown else found
        print("| " + " | ".join(found) + " |" if arguments.markdown else "\t".join(found), flush=True)


if __name__ == "__main__":
    main()
