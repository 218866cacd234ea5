"""What the CLI takes where nothing else is asked for: recipes to try, training settings per benchmark and recipe."""

from __future__ import annotations

from typing import Any

COMPARED = ("fine-tune", "replay", "zscl", "lora")
"""The baseline, and one recipe of each family."""

ADVISED = (
    *("fine-tune", "zero-shot", "wise-ft", "magmax", "zscl"),
    *("nusa", "replay", "prototype-replay", "lora", "ranpac"),
)
"""What advice tries: doing nothing, and recipes of every family that a user can run without more than the stream."""

_PICTUREBOOK = {"epochs": 5, "batch_size": 64, "warmup": 5}
_LEARNING_RATE = 5e-4
_LEARNING_RATES = {
    "lora": 5e-3,
    "prototype-replay": 3e-3,
    "rapf": 3e-3,
    "nusa": 5e-3,
    "c-clip": 5e-3,
    "keeplora": 1e-1,
    "adapter-per-task": 1e-2,
    "moe-adapters": 1e-2,
    "coop": 1e-3,
    "maple": 3e-3,
    "s-prompts": 1e-1,
    "diki": 3e-2,
    "l2p": 1e-2,
    "dualprompt": 3e-2,
    "coda-prompt": 1e-2,
    "lada": 3e-2,
    "proof": 1e-3,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "zscl": {"interval": 10, "weight": 5.0},
    "lwf-vr": {"texts_per_step": 128},
    # The published 10 and 40 prompt tokens drown the 17 of the tiny model's image tower.
    "s-prompts": {"image_length": 4, "text_length": 2},
    "l2p": {"length": 2, "chosen": 2},
}


def settings_for(benchmark: str, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and recipe options.

    The picturebook's learning rates were chosen on a world of another seed (100), which no reported result uses, by the
    accuracy on each task right after it was trained: of 2.5e-4, 5e-4 and 1e-3 fine-tuning reached 85.8, 84.7 and 82.7
    percent there, of 2.5e-3, 5e-3 and 1e-2 ``lora`` 80.5, 82.3 and 82.2, and of 1e-3, 3e-3 and 1e-2
    ``prototype-replay`` 75.4, 77.8 and 79.1; of 1e-3 and 3e-3 ``rapf`` 69.0 and 71.5 (a smaller world). For fine-tuning
    (and with it all that trains whole towers) we take 5e-4, within the noise of the best, because the damage of a
    learning rate that one would take in good faith is what the comparison is about: held-out captions lost 15.5, 22.0
    and 80.9 points. For ``prototype-replay`` we take 3e-3, since 1e-2 buys its point dearly: held-out R@1 ended at
    98.8, 95.1 and 73.7. Of 2e-3, 5e-3 and 1e-2 ``nusa`` reached 75.0, 77.3 and 77.4 there (256 pictures per task), and
    of the first two ``c-clip`` 73.2 and 75.2; On four tasks of that world (256 pictures) ``keeplora`` reached 58.6,
    71.6, 79.2, 84.6 and 83.2 at 5e-3, 2e-2, 5e-2, 1e-1 and 2e-1, ``adapter-per-task`` 73.0, 83.0 and 83.8 at 3e-3, 1e-2
    and 3e-2, and ``s-prompts`` 64.2 and 69.0 at 3e-2 and 1e-1; ``moe-adapters`` 70.6, 75.4 and 78.4 at 3e-3, 1e-2 and
    3e-2, of which we take 1e-2, because at 3e-2 its tasks lost three of these points again. Other prompts have what did
    best on three tasks (few rates). Of 3e-3, 1e-2, 3e-2 and 1e-1 ``lada`` reached 63.1, 70.3, 71.9 and 68.2 there (128
    pictures per task), of 3e-4, 1e-3, 3e-3 and 1e-2 ``proof`` 72.9, 73.8, 72.9 and 70.9. Everything else gets the
    published settings of fine-tuning CLIP, and the recipes' own defaults.

    :param benchmark: name of a benchmark, ``data`` for a user's own.
    :param recipe: name of a recipe.
    :return: fields of :class:`~avalanche_vlm.training.settings.TrainSettings`, and options of the recipe.
    """
    if benchmark.startswith("picturebook"):
        return {**_PICTUREBOOK, "lr": _LEARNING_RATES.get(recipe, _LEARNING_RATE)}, dict(_OPTIONS.get(recipe, {}))
    return {"lr": 5e-4 if recipe in _LEARNING_RATES else 1e-5}, {}
