"""Bytes that are a tensor and take no memory: they lie in a file, and the system reads what is looked at."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

PIECE = 1 << 25
"""Bytes that go from disk to disk at a time."""


def spooled(parts: Iterable[np.ndarray], folder: Path) -> torch.Tensor:
    """Arrays end to end, in a file that has no name and is gone when the tensor is. What is written to the tensor is
    in memory, and the file stays as it is.

    :param parts: arrays without gaps, each of which is asked for when the one before is written.
    :param folder: folder on whose disk the bytes lie.
    :return: the bytes, uint8.
    :raises OSError: if they cannot be written.

    >>> spooled([np.array([1, 2], np.uint8), np.array([3], np.uint8)], Path(tempfile.gettempdir()))
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        size = sum(file.write(part.data) for part in parts)
        file.flush()
        if not size:
            return torch.zeros(0, dtype=torch.uint8)
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    return torch.frombuffer(content, dtype=torch.uint8)
