"""What layers read while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from avalanche_vlm._ranks import together
from avalanche_vlm._rows import counts_here


@contextmanager
def reading_inputs(
    layers: Mapping[str, nn.Module],
    read: Callable[[str, torch.Tensor], None],
    sums: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Hand every input of some layers to a function, for as long as the block lasts.

    :param layers: the layers, by the name that the function gets.
    :param read: called as ``read(name, input)`` before each forward pass of a layer, with its first argument. Of
        several processes that train together each reads its share.
    :param sums: what ``read`` adds to, by name; when the block is over they are summed over the processes, in place.

    >>> layer, norms = nn.Linear(2, 1), {}
    >>> with reading_inputs({"only": layer}, lambda name, x: norms.update({name: x.norm().item()})):
    ...     output = layer(torch.tensor([3.0, 4.0]))
    >>> norms
    {'only': 5.0}
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: read(name, inputs[0]) if counts_here() else None

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if (ranks := together()) is not None:
        for total in (sums or {}).values():
            total.copy_(ranks.sum(total))
