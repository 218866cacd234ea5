"""The global random generators of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def generators_kept(device: torch.device | None = None) -> Iterator[None]:
    """Whatever draws within the block, the global generators are afterwards where they were before.

    :param device: a CUDA device whose generator is kept as well; other devices have none, as None has.

    >>> before = torch.get_rng_state()
    >>> with generators_kept():
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    states = random.getstate(), _numpy_state()
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_generators(seed: int) -> None:
    """Start all of them anew on this host; those of accelerators stay where they are.

    :param seed: 0 or more.
    """
    random.seed(seed)
    kind = _numpy_state()["bit_generator"]
    if kind == "MT19937":
        np.random.seed(seed % 2**32)
    else:  # somebody has given numpy another one, which is not seeded by a call
        np.random.set_state(getattr(np.random, kind)(seed).state)
    torch.default_generator.manual_seed(seed)


def generators_at() -> tuple[Any, ...]:
    """Where they are, as something that is equal to another where nothing was drawn in between."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), _comparable(_numpy_state())


def _numpy_state() -> dict[str, Any]:
    """The state of numpy's global generator, of whatever kind it is."""
    state: Any = np.random.get_state(legacy=False)
    return state


def _comparable(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _comparable(of) for name, of in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
