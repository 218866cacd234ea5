"""Gradients that are added where others are made: a penalty's, in the memory of what a table's reading sends back.

The engine of autograd adds up what comes back to a tensor, and what it adds up is there side by side. Of a table of
48,000 rows that is as much memory again as the table. So who reads a table leaves a thread behind, by which a penalty
on the table hangs: the penalty sends its factor back along it, and the reading adds the penalty's gradient to its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

from avalanche_vlm._on_demand import pieces
from avalanche_vlm.compat.tensors import is_batched

_last: dict[int, weakref.ref[Thread]] = {}
"""The last reading of each tensor, by the tensor's id: while the graph of a reading is there, so is the tensor. Nothing
refers to tensors themselves, not even weakly, or torch could not swap a parameter for the one that was moved."""


class Pull:
    """The penalty ``factor * sum F (w - anchor)^2`` that hangs by a reading of ``w``, if one does."""

    def __init__(self) -> None:
        self.anchor: torch.Tensor | None = None
        self.importance: Callable[[], torch.Tensor] | None = None
        self.over = False
        """Whether the reading has sent its gradient, and its graph is used up."""

    def add_to(self, gradient: torch.Tensor, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Add the penalty's gradient to another one, in its place unless that is differentiated in its turn or the
        factor stands for many.

        :param gradient: the gradient, of the weight's shape.
        :param weight: the tensor that was read.
        :param factor: what came back to the penalty, a scalar.
        """
        assert self.anchor is not None
        given = [weight, self.anchor] if self.importance is None else [weight, self.anchor, self.importance()]
        if torch.is_grad_enabled() or is_batched(factor):
            return gradient + _pulled(*given, factor=factor)
        for part, *of_part in pieces(gradient, *given):
            part.add_(_pulled(*of_part, factor=factor))
        return gradient


def _pulled(
    weight: torch.Tensor, anchor: torch.Tensor, *importance: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    away = weight - anchor
    for of_weight in importance:
        away = away * of_weight
    return away * (2 * factor)


class Thread:
    """What a reading of a tensor leaves behind, for as long as its graph is there.

    :param end: a scalar, whose gradient comes to the reading.
    :param pull: what the reading will look at then.
    """

    def __init__(self, end: torch.Tensor, pull: Pull) -> None:
        self.end, self.pull = end, pull


def leave_thread(tensor: torch.Tensor, thread: Thread) -> None:
    """Let a penalty find a reading. Whoever calls it holds the thread.

    :param tensor: the tensor that was read.
    :param thread: what is left behind.
    """
    number = id(tensor)

    def is_gone(thread: weakref.ref[Thread]) -> None:
        if _last.get(number) is thread:
            del _last[number]

    _last[number] = weakref.ref(thread, is_gone)


def hang(
    tensor: torch.Tensor, anchor: torch.Tensor, importance: Callable[[], torch.Tensor] | None = None
) -> torch.Tensor | None:
    """Hang a penalty by the last reading of a tensor.

    :param tensor: the tensor that is pulled.
    :param anchor: where the tensor is pulled to.
    :param importance: gives how much each of its numbers counts, when that is asked for; None for 1.
    :return: the scalar to which the penalty sends its factor; None if no reading is there, or another penalty hangs by
        it already: this one sends its gradient itself.
    """
    found = _last.get(id(tensor))
    thread = None if found is None else found()
    if thread is None or thread.pull.over or thread.pull.anchor is not None:
        return None
    thread.pull.anchor, thread.pull.importance = anchor, importance
    return thread.end
