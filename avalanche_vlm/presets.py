"""Training settings per benchmark and recipe: what the CLI takes where nothing else is asked for."""

from __future__ import annotations

from typing import Any

_PICTUREBOOK = {"epochs": 5, "batch_size": 64, "warmup": 5}
_LEARNING_RATES = {"fine-tune": 5e-4, "replay": 5e-4, "zscl": 5e-4, "lora": 5e-3}
_OPTIONS: dict[str, dict[str, Any]] = {"zscl": {"interval": 10, "weight": 5.0}}


def settings_for(benchmark: str, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and recipe options.

    The picturebook's learning rates were chosen on a world of another seed (100), which no reported result uses, by
    the accuracy on each task right after it was trained: of 2.5e-4, 5e-4 and 1e-3 fine-tuning reached 85.8, 84.7 and
    82.7 percent there, of 2.5e-3, 5e-3 and 1e-2 ``lora`` 80.5, 82.3 and 82.2. For fine-tuning (and with it replay and
    zscl) we take 5e-4, within the noise of the best, because the damage of a learning rate that one would take in
    good faith is what the comparison is about: held-out captions lost 15.5, 22.0 and 80.9 points. Everything else gets
    the published settings of fine-tuning CLIP, and the recipes' own defaults.

    :param benchmark: name of a benchmark, ``data`` for a user's own.
    :param recipe: name of a recipe.
    :return: fields of :class:`~avalanche_vlm.experiment.TrainSettings`, and options of the recipe.
    """
    if benchmark.startswith("picturebook"):
        return {**_PICTUREBOOK, "lr": _LEARNING_RATES.get(recipe, 5e-4)}, dict(_OPTIONS.get(recipe, {}))
    return {"lr": 5e-4 if recipe == "lora" else 1e-5}, {}
