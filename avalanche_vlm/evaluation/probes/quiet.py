"""Looking at a model in the middle of training without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.models.towers import resting
from avalanche_vlm.models.vlm import VLM


@contextmanager
def undisturbed(model: VLM) -> Iterator[VLM]:
    """Eval mode within a block; afterwards the mode of every module, the random state and the taps are what they were.

    Dropout and batch norm neither draw nor count meanwhile. Unlike
    :meth:`~avalanche_vlm.models.towers.TwoTowers.evaluating` it leaves gradients on, and finds a module again that
    somebody had put in a mode of its own.
    """
    mode = model.training
    taps, model.taps = model.taps, []
    # Even a data loader that does not shuffle draws a number.
    with generators_kept(model.device), resting(model):
        try:
            yield model
        finally:
            model.train(mode)
            model.taps = taps
