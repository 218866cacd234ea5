"""Training settings per benchmark and recipe: what the CLI takes where nothing else is asked for."""

from __future__ import annotations

from typing import Any

_PICTUREBOOK = {"epochs": 5, "batch_size": 64, "warmup": 5}
_LEARNING_RATES = {"fine-tune": 5e-4, "replay": 5e-4, "zscl": 5e-4, "lora": 5e-3}
_OPTIONS: dict[str, dict[str, Any]] = {"zscl": {"interval": 10, "weight": 5.0}}


def settings_for(benchmark: str, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and recipe options.

    The picturebook's were chosen on its training split (a fifth of it kept aside), never on test scores. Everything
    else gets the published settings of fine-tuning CLIP, and the recipes' own defaults.

    :param benchmark: name of a benchmark, ``data`` for a user's own.
    :param recipe: name of a recipe.
    :return: fields of :class:`~avalanche_vlm.experiment.TrainSettings`, and options of the recipe.
    """
    if benchmark.startswith("picturebook"):
        return {**_PICTUREBOOK, "lr": _LEARNING_RATES.get(recipe, 5e-4)}, dict(_OPTIONS.get(recipe, {}))
    return {"lr": 5e-4 if recipe == "lora" else 1e-5}, {}
