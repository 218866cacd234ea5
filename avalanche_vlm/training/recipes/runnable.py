"""What a recipe is trained with where nothing else is asked for."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.training.recipes.declaration import Published, Recipe
from avalanche_vlm.training.recipes.facts import WHOLE_TOWERS
from avalanche_vlm.training.recipes.registry import get_recipe
from avalanche_vlm.training.settings import TrainSettings


def settings_for(recipe: str, benchmark: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and options of a recipe on a benchmark.

    The picturebook has rates of its own, found by trying. Elsewhere the rate is the published one for that benchmark;
    else the recipe's own for AdamW; else the first published one that AdamW can run with one rate for all parameters;
    else that of :class:`~avalanche_vlm.training.settings.TrainSettings`, at which CLIP is fine-tuned.

    :param recipe: a recipe's name.
    :param benchmark: a benchmark's name; any other name for a user's own data.
    :return: fields of :class:`~avalanche_vlm.training.settings.TrainSettings`, and options of the recipe.
    :raises InputError: if there is no recipe of that name.

    >>> settings_for("zscl", "picturebook")
    ({'epochs': 5, 'batch_size': 64, 'warmup': 5, 'lr': 0.0005}, {'interval': 10, 'weight': 5.0})
    >>> settings_for("keeplora", "data")
    ({'lr': 0.001, 'weight_decay': 0.01}, {})
    """
    chosen = get_recipe(recipe)
    if benchmark.startswith("picturebook"):
        tuned = chosen.picturebook or WHOLE_TOWERS
        fields = {"epochs": tuned.epochs, "batch_size": tuned.batch_size, "warmup": tuned.warmup, "lr": tuned.lr}
        return fields, dict(tuned.options)
    (lr, weight_decay), options = _rate(chosen, benchmark)
    return {"lr": lr, "weight_decay": weight_decay}, options


def _rate(chosen: Recipe, benchmark: str) -> tuple[tuple[float, float], dict[str, Any]]:
    default = TrainSettings()
    published = [entry for entry in chosen.training if isinstance(entry, Published)]
    for entry in published:
        rate = entry.rate(default.batch_size)
        if rate is not None and entry.benchmark.lower() == benchmark.lower():
            return rate, dict(entry.options)
    if chosen.adamw is not None:
        return (chosen.adamw.lr, chosen.adamw.weight_decay), {}
    for entry in published:
        rate = entry.rate(default.batch_size)
        if rate is not None:
            return rate, {}
    return (default.lr, default.weight_decay), {}
