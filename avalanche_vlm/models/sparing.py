"""Training in less memory, for more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.encoder import DualEncoder


@contextmanager
def encoding_in(model: DualEncoder, parts: int) -> Iterator[None]:
    """Within a block a model encodes batches that train in so many parts.

    :param model: the model that trains within the block.
    :param parts: number of parts, 1 or more.
    :raises InputError: if a tower that trains has batch normalisation, to which a part is another batch.
    """
    normal = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if parts > 1 and any(isinstance(part, normal) and part.training for part in model.clip.modules()):
        raise InputError(
            f"{model.name} normalises by the batch that it sees, so that a batch in parts (accumulate) is another one: "
            "take a model without batch normalisation, or freeze the tower that has it"
        )
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
    :raises InputError: if its towers cannot do that.
    """
    switch = getattr(model.clip, "set_grad_checkpointing", None)
    if not asked:
        yield
        return
    if switch is None:
        raise InputError(f"{model.name} has no blocks that could run once more backward (grad_checkpointing)")
    switch(True)
    try:
        yield
    finally:
        switch(False)
