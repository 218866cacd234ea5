"""Tensors of which few are there at a time: made when they are asked for, or gone through piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch


class TensorsOnDemand(Mapping[str, torch.Tensor]):
    """A mapping that holds none of its tensors, so that a copy of all of them is never there. One that is asked for
    twice is made twice.

    :param names: names of the tensors, in their order.
    :param make: makes the tensor of a name, without a graph.

    >>> doubled = TensorsOnDemand(["w"], lambda name: 2 * torch.ones(1))
    >>> doubled["w"], list(doubled)
    (tensor([2.]), ['w'])
    """

    def __init__(self, names: Collection[str], make: Callable[[str], torch.Tensor]) -> None:
        self._names, self._make = names, make

    @torch.no_grad()
    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


PIECE = 1 << 18
"""Numbers of a piece, a megabyte in float32."""


def pieces(*tensors: torch.Tensor, size: int = PIECE) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of tensors of one shape along their first dimension, of about as many numbers each: what is made of them on
    the way is no larger, and what is written into them is in the tensors.

    :param tensors: tensors of equal shapes, in whatever order their numbers lie.
    :param size: numbers of a piece, unless a row alone has more.

    >>> [len(piece) for (piece,) in pieces(torch.zeros(5, PIECE // 2))]
    [2, 2, 1]
    """
    first = tensors[0]
    if first.ndim == 0 or first.numel() <= size:
        yield tensors
        return
    rows = max(1, size * len(first) // first.numel())
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)
