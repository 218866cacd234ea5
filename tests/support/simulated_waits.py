"""Where a host waits for its device: kinds of waits by file and line."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "avalanche_vlm"
_HERE = str(Path(__file__).parent)
_heard: list[Counter[tuple[str, str]]] = []

WAITS = {
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "masked_select": "nonzero",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "unique_dim_consecutive": "unique",
    "bincount": "bincount",
    "equal": "equal",
    "multinomial": "multinomial",  # it looks whether its probabilities are valid
    "_linalg_check_errors": "linalg",
    "_linalg_eigh": "linalg",
    "_linalg_svd": "linalg",
    "linalg_lstsq": "linalg",
    "linalg_eig": "linalg",
}
"""Operators that end on the host: their result, or its shape, is known there before the next line runs."""


@contextmanager
def waits() -> Iterator[Counter[tuple[str, str]]]:
    """Counts what a block waits for: ``(kind, "training/strategies.py:12")`` and how often."""
    _heard.append(Counter())
    try:
        yield _heard[-1]
    finally:
        _heard.pop()


def wait(kind: str) -> None:
    """One more of a kind, at the line of the package that is being run."""
    if _heard:
        where = _line()
        for heard in _heard:
            heard[kind, where] += 1


def _line() -> str:
    """The innermost line of the package; where there is none, the innermost that is neither torch's nor ours."""
    frame, stranger = sys._getframe(2), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if f"{os.sep}{PACKAGE}{os.sep}" in path:
            return f"{path.split(f'{os.sep}{PACKAGE}{os.sep}')[-1]}:{frame.f_lineno}"
        if not stranger and not path.startswith(_HERE) and f"{os.sep}torch{os.sep}" not in path:
            stranger = f"({os.sep.join(path.split(os.sep)[-2:])}:{frame.f_lineno})"
        frame = frame.f_back
    return stranger
