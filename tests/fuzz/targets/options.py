"""Options of recipes and benchmarks, and settings of the training, as texts and as values of Python's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import NUMBERS, TEXTS, changed, odd_value

SHARE, QUICK = 50, 80


@cache
def _options() -> list[tuple[str, str]]:
    from avalanche_vlm.training import recipes

    return [(name, option) for name in recipes.list() for option in recipes.get(name).options]


_SETTINGS = (
    "lr",
    "epochs",
    "batch_size",
    "weight_decay",
    "warmup",
    "max_grad_norm",
    "label_smoothing",
    "train_classes",
    "amp",
    "num_workers",
)


def make(random: Random) -> Example:
    """An option with a value: ``[kind, recipe, option, value]``."""
    kind = random.choice(("text", "text", "value", "setting", "benchmark"))
    recipe, option = random.choice(_options())
    if kind == "text":
        texts = (*TEXTS, *map(str, NUMBERS), "mean", "both", "image", "1,2", "[1, 2]", "none", '"x"', '{"a": 1}')
        value = random.choice(texts)
        if random.randrange(3) == 0:
            value = changed(random, value.encode(errors="replace")[:100], (b"[", b"1", b"e", b".", b"-", b",")).decode(
                errors="replace"
            )
    else:
        value = odd_value(random)
        if kind == "setting":
            option = random.choice(_SETTINGS)
        if kind == "benchmark":
            option = random.choice(
                ("n_train", "n_test", "n_held_out", "n_reference", "order", "label_space", "seed", "template", "x")
            )
    return Example("option.json", json.dumps([kind, recipe, option, value]).encode())


def check(example: Example, folder: Path) -> None:
    """A value that is taken is taken again as JSON has it, so that a stored request means the same."""
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.recipes.options import json_value
    from avalanche_vlm.training.settings import TrainSettings

    kind, recipe, option, value = json.loads(example.content)
    if kind == "setting":
        TrainSettings(**{option: value})
    elif kind == "benchmark":
        from avalanche_vlm import benchmarks

        if option.startswith("n_") and isinstance(value, (int, float)) and 100 < value < 1e12:
            return  # would be made
        benchmarks.create(
            "picturebook", **{"n_train": 2, "n_test": 2, "n_held_out": 8, "n_reference": 2, option: value}
        )
    elif kind == "text":
        found = recipes.parse_options(recipe, {option: value})[option]
        stored = json.loads(json.dumps(json_value(found), allow_nan=False))
        again = recipes.get(recipe).options[option].check(stored)
        if json_value(again) != json_value(found):
            raise WrongAccept(f"{recipe}: {option} {value!r} is {found!r}, and {again!r} when it was stored")
    else:
        found = recipes.get(recipe).options[option].check(value)
        try:
            json.dumps(json_value(found), allow_nan=False)
        except ValueError as error:
            raise WrongAccept(
                f"{recipe}: {option} {value!r} is taken as {found!r}, which no request can hold"
            ) from error
