"""Towers whose blocks torch compiles while they train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from avalanche_vlm.compat.modules import compile_failure, compiled
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.encoder import DualEncoder
from avalanche_vlm.models.modules.blocks import tower_blocks

BACKEND = "inductor"
"""What torch makes of the blocks: its own backend, for which a CPU needs a C++ compiler."""


def blocks_to_compile(model: DualEncoder) -> list[nn.Module]:
    """The residual blocks of both towers. They are equal within a tower, so that torch compiles one and has all.

    :param model: the model that is about to train.
    :return: open_clip's own and those of timm's vision transformers; a tower of another kind has none.
    :raises InputError: if neither tower has any.
    """
    found = [layer for name in ("image", "text") for layer in tower_blocks(model.tower(name)) or ()]
    if not found:
        raise InputError(f"{model.name} has no blocks of a transformer that torch could compile (compile)")
    return found


@contextmanager
def compiling_blocks(model: DualEncoder) -> Iterator[None]:
    """Within a block of code torch compiles the residual blocks of a model's towers, as they are called.

    What it computes differs from the blocks as they are by rounding. It compiles again where something differs that it
    has taken for granted: another module is active, a hook has come or gone, the gradient is off, the last batch is
    smaller; after the second size it takes any.

    :param model: the model that trains within the block.
    :raises InputError: if neither tower has such blocks, or torch cannot compile them here, with its reason.
    """
    try:
        with compiled(blocks_to_compile(model), BACKEND):
            yield
    except compile_failure() as error:
        reason = " ".join(str(error).strip().splitlines()[:2])  # the backend, and what it says
        raise InputError(f"torch cannot compile the blocks of {model.name}: {reason}; leave compile out") from error
