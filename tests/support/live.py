"""How many bytes of tensors are alive at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """The most bytes of tensors alive at a time: of these, and of all that are made within the block.

    :param held: tensors that are there already.
    :param least: bytes of a tensor from which on it counts.
    """

    def __init__(self, held: Iterable[torch.Tensor] = (), least: int = 0) -> None:
        super().__init__()
        self.least = least
        self.known = [weakref.ref(tensor) for tensor in held]
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [of for of in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(of, torch.Tensor)]
        made = [of for of in made if of.nbytes >= self.least and all(of is not a for a in args)]
        if made:
            self.known = [reference for reference in self.known if reference() is not None]
            self.known += [weakref.ref(of) for of in made]
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (r() for r in self.known)}
            self.peak = max(self.peak, sum(storages.values()))
        return out
