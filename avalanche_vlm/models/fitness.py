"""Whether a model that was loaded can be used: finite weights, and images that are whole patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
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
    broken = not_finite(clip.state_dict())
    if broken:
        more = f", and so have {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise InputError(f"the weights of {name} are broken: {broken[0]} has numbers that are NaN or infinite{more}")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinite number, in their order; the device is looked at once.

    :param tensors: tensors of any type by name.

    >>> not_finite({"a": torch.tensor([1.0, torch.inf]), "b": torch.tensor([1])})
    ['a']
    """
    names = [name for name, of in tensors.items() if of.is_floating_point() and of.numel()]
    if not names:
        return []
    # The extremes of numbers among which is a NaN are NaN, and to find them takes no copies.
    extremes = [torch.stack(tensors[name].detach().aminmax()) for name in names]
    whole = torch.stack([of.isfinite().all().to(tensors[names[0]].device) for of in extremes])
    return [name for name, good in zip(names, whole.tolist(), strict=True) if not good]


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
