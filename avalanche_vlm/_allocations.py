"""Parts that are larger than memory are refused before it is taken.

What a user asks for in numbers (a rank, experts, prompts, pixels) comes to bytes in constructors of many classes,
torch's among them. All of them make tensors by the same few operators, and that is where their sizes are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from avalanche_vlm._memory import free_memory
from avalanche_vlm.compat.tensors import OperatorMode
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Tensors that are made within fit in the memory of this machine that is free, all together: those that are held at
    the same time. Nothing is refused where the system does not say how much is free.

    :param what: what is made, as the subject of a sentence.
    :raises InputError: before a tensor is made that does not.

    >>> with within_memory("a matrix"):
    ...     torch.zeros(10**9, 10**9)
    Traceback (most recent call last):
    avalanche_vlm.errors.InputError: a matrix would take 3725290298.5 GiB of memory or more, and ... GiB are free
    """
    mode = _Sizes(what)
    try:
        with mode:
            yield
    except (MemoryError, RuntimeError, TypeError, OverflowError) as error:
        said = str(error)
        if isinstance(error, MemoryError) or any(sign in said for sign in _BEYOND):
            raise InputError(f"{what} would take more memory than there is: {said.splitlines()[0][:200]}") from error
        raise


_BEYOND = ("can't allocate memory", "overflow", "Overflow", "out of memory")
"""What torch says of sizes that the system refuses, and of such as 64 bits do not hold."""


class _Sizes(OperatorMode):
    """Adds up the bytes of tensors on the CPU that are made of nothing but their sizes, as long as they are held."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what, self._free = what, free_memory()
        self._held: list[tuple[StorageWeakRef, int]] = []
        self._taken = 0  # by those that are held, or were when they were last looked at

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        asked = 0 if self._free is None else _bytes_of(func, args, options)
        if asked == 0:
            return func(*args, **options)
        assert self._free is not None
        if self._taken + asked > self._free:
            self._held = [(storage, count) for storage, count in self._held if not storage.expired()]
            self._taken = sum(count for _, count in self._held)
        if (needed := self._taken + asked) > self._free:
            free = f"and {human_bytes(self._free)} are free"
            raise InputError(f"{self._what} would take {human_bytes(needed)} of memory or more, {free}")
        made: torch.Tensor = func(*args, **options)
        self._held.append((StorageWeakRef(made.untyped_storage()), asked))
        self._taken = needed
        return made


def _bytes_of(func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Of a tensor that an operator is about to make on the CPU; 0 for one that it makes of others."""
    name, like = func.name(), args[0] if args and isinstance(args[0], torch.Tensor) else None
    if like is not None and not name.startswith("aten::new_"):
        return 0
    device = options.get("device") or (None if like is None else like.device)
    if device is not None and torch.device(device).type != "cpu":
        return 0
    if name.startswith("aten::eye"):
        count = args[0] * args[-1]
    else:
        sizes = (part for part in args if isinstance(part, list | tuple))
        size = next(sizes, ())  # of tensors that are joined: no size
        count = math.prod(size) if size and all(isinstance(n, int) for n in size) else 0
    dtype = options.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
    return int(count) * dtype.itemsize
