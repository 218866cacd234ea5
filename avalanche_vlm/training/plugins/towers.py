"""Which towers a method may change."""

from __future__ import annotations

from collections.abc import Sequence

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM

_BOTH = ("image", "text")


def training_towers(model: VLM, towers: Sequence[str], method: str) -> tuple[str, ...]:
    """Those of some towers that are not frozen: what ``model.freeze("text")`` holds, no method moves.

    :param model: the model, before the method has frozen anything itself.
    :param towers: the towers that the method would change, of ``"image"`` and ``"text"``.
    :param method: the method, in words that begin an error.
    :return: the towers that it may change, image first.
    :raises InputError: for another tower, or if all of these are frozen.
    """
    if not towers or not set(towers) <= set(_BOTH):
        raise InputError(f"{method} changes the towers image and text, not {', '.join(towers) or 'none'}")
    found = tuple(tower for tower in _BOTH if tower in towers and tower not in model.frozen)
    if not found:
        which = "both towers are" if len(set(towers)) == 2 else f"the {towers[0]} tower is"
        raise InputError(f"{method} has nothing to change: {which} frozen; unfreeze what it is to train")
    return found
