"""Training in less memory, for more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.encoder import DualEncoder

_NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def refuse_unsparing(model: DualEncoder, parts: int, recomputed: bool) -> None:
    """Refuse what would make another training of it to spare memory, or would spare none.

    :param model: the model that is about to train.
    :param parts: number of parts that batches are encoded in, 1 or more.
    :param recomputed: whether the towers' blocks keep no activations and run once more backward.
    :raises InputError: if a tower that trains has batch normalisation, to which a part is another batch and a second
        run is another step, or if the towers have no blocks that could run again.
    """
    for tower in ("image", "text"):
        trains = tower not in model.frozen
        normal = any(isinstance(part, _NORMALISING) for part in model.tower(tower).modules())
        if trains and normal and (parts > 1 or recomputed):
            what = (
                "a batch in parts (accumulate) is another one"
                if parts > 1
                else "to run its blocks once more (grad_checkpointing) counts every batch twice"
            )
            raise InputError(
                f"the {tower} tower of {model.name} normalises by the batch that it sees, so that {what}: take a model "
                "without batch normalisation, or freeze the tower"
            )
    if recomputed and (
        not hasattr(model.clip, "set_grad_checkpointing") or isinstance(model.tower("image"), ModifiedResNet)
    ):
        raise InputError(f"{model.name} has no blocks that could run once more backward (grad_checkpointing)")


@contextmanager
def encoding_in(model: DualEncoder, parts: int) -> Iterator[None]:
    """Within a block a model encodes batches that train in so many parts.

    :param model: the model that trains within the block.
    :param parts: number of parts, 1 or more.
    :raises InputError: if it cannot (:func:`refuse_unsparing`).
    """
    refuse_unsparing(model, parts, False)
    before, model.parts = model.parts, parts
    try:
        yield
    finally:
        model.parts = before


@contextmanager
def keeping_no_activations(model: DualEncoder, asked: bool) -> Iterator[None]:
    """Within a block the blocks of a model's towers keep no activations, and run once more backward.

    :param model: the model that trains within the block.
    :param asked: False leaves the model as it is.
    :raises InputError: if it cannot (:func:`refuse_unsparing`).
    """
    if not asked:
        yield
        return
    refuse_unsparing(model, 1, True)
    switch = model.clip.set_grad_checkpointing
    switch(True)
    try:
        yield
    finally:
        switch(False)
