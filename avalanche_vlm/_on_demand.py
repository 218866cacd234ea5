"""Tensors that are made when they are asked for."""

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
