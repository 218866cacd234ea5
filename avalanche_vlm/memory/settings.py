"""What an object was set to, in plain JSON types: for tools of others, which a protocol has to tell apart."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import PurePath
from types import ModuleType
from typing import Any

import numpy as np
import torch

from avalanche_vlm._content import digest

_DEEPEST = 3
"""How many objects within each other are looked into; of what lies deeper, the kind is told."""


def settings_of(value: Any) -> dict[str, Any]:
    """What an object or function is and what it was set to.

    Settings are attributes without a leading underscore, but for ``device``; the arguments of a ``functools.partial``;
    the settings of the object that a method belongs to; the variables that an inner function keeps of the outer one.

    :param value: any object or function; it is not called.
    :return: plain JSON types: ``kind``, the dotted name of the class or function, and the settings by name. Of arrays,
        tensors and modules a digest of their content stands for them. Nothing in it changes with the process.

    >>> settings_of(functools.partial(sorted, reverse=True))
    {'kind': 'builtins.sorted', 'reverse': True}
    """
    return _told(value, 0)


def tensor_content(tensor: torch.Tensor) -> bytes:
    """The content of a tensor, its precision and shape included.

    :param tensor: any tensor, on any device.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return f"{tensor.dtype} {list(tensor.shape)} ".encode() + flat.view(torch.uint8).numpy().tobytes()


def _told(value: Any, depth: int) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        inner = _told(value.func, depth)
        given = {"arguments": _plain(value.args, depth + 1)} if value.args else {}
        return {**inner, **given, **{name: _plain(part, depth + 1) for name, part in value.keywords.items()}}
    kind = value if hasattr(value, "__qualname__") else type(value)
    facts: dict[str, Any] = {"kind": f"{kind.__module__}.{kind.__qualname__}"}
    if depth < _DEEPEST and not isinstance(value, type):
        facts |= {name: _plain(part, depth + 1) for name, part in _settings(value)}
    if isinstance(value, torch.nn.Module):
        state = value.state_dict().items()
        facts["content"] = digest(part for name, tensor in state for part in (name, tensor_content(tensor)))
    return facts


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        yield "of", owner
    code = getattr(value, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(value, "__closure__", None) or (), strict=True):
        with suppress(ValueError):  # a variable that the outer function has not set
            yield name, cell.cell_contents
    slots = (getattr(base, "__slots__", ()) for base in reversed(type(value).__mro__))
    named = [name for of in slots for name in ([of] if isinstance(of, str) else of) if hasattr(value, name)]
    own = {**{name: getattr(value, name) for name in named}, **getattr(value, "__dict__", {})}
    for name, part in own.items():
        # Where it runs decides nothing; whether a module trains is no setting of what it draws.
        if not name.startswith("_") and name not in ("device", "training"):
            yield name, part


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str | int | bool | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, PurePath | float | torch.dtype | torch.device | np.generic | bytes | complex):
        return str(value)
    if isinstance(value, ModuleType | logging.Logger):
        return getattr(value, "__name__", None) or value.name
    if isinstance(value, Mapping):
        return {str(name): _plain(part, depth) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, depth) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(part, depth) for part in value), key=repr)
    if isinstance(value, torch.Tensor):
        return digest([tensor_content(value)])
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return digest([f"{value.dtype.name} {list(value.shape)}", np.ascontiguousarray(value).tobytes()])
    if callable(value) or hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
        return _told(value, depth)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
