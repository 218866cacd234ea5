"""Whether a model that was loaded can be used: finite weights, and images that are whole patches."""

from __future__ import annotations

from typing import Any

from torch import nn

from avalanche_vlm.errors import InputError

_REDUCTION = 32
"""How many pixels of the image one position of a CLIP ResNet's last map stands for, along each side."""


def check_finite(clip: nn.Module, name: str) -> None:
    """Refuse weights with which every answer would be meaningless, and none would look it.

    :param clip: a model whose parameters and stored buffers are read.
    :param name: what the sentence calls the model.
    :raises InputError: naming the first tensor with a NaN or an infinite number, and how many there are.
    """
    broken = [n for n, of in clip.state_dict().items() if of.is_floating_point() and not bool(of.isfinite().all())]
    if broken:
        more = f", and so have {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise InputError(f"the weights of {name} are broken: {broken[0]} has numbers that are NaN or infinite{more}")


def check_image_size(clip: nn.Module, name: str, size: int) -> None:
    """Refuse a size of images of which the image tower would leave a margin unread.

    :param clip: a model of open_clip's. One whose own size is the one asked for is taken as it was published, and so is
        a tower without patches.
    :param name: what the sentence calls the model.
    :param size: side of the image in pixels.
    :raises InputError: naming the nearest sizes that are whole patches.
    """
    patch = _patch(getattr(clip, "visual", None))
    if patch is None or size % patch == 0 or size == _own_size(name):
        return
    below = size - size % patch
    near = f"{below} or {below + patch}" if below else str(patch)
    raise InputError(
        f"image_size={size} is not a whole number of the patches of {patch} pixels that {name} reads, so that the "
        f"rest would be left out: take {near}"
    )


def _patch(tower: Any) -> int | None:
    """Side of an image tower's patches in pixels; None for one that has none."""
    if hasattr(tower, "attnpool"):
        return _REDUCTION
    embedding = getattr(getattr(tower, "trunk", None), "patch_embed", None)
    patch = getattr(tower, "patch_size", None) or getattr(embedding, "patch_size", None)
    return max(patch) if isinstance(patch, tuple) else patch if isinstance(patch, int) else None


def _own_size(name: str) -> int | None:
    from open_clip import factory

    config = factory.get_model_config(name) or {}
    return config.get("vision_cfg", {}).get("image_size")
