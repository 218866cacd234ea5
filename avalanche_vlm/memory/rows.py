"""Checked numbers: columns as narrow as they can be and never silently too narrow, settings that are whole numbers."""

from __future__ import annotations

import numpy as np
import torch

from avalanche_vlm.errors import InputError


def fitting(values: torch.Tensor, dtype: np.dtype, name: str) -> np.ndarray:
    """Integers on the CPU in a narrow type, after a check that it holds them.

    :param values: integers ``[n]``, at least one.
    :param dtype: integer type of the column.
    :param name: the column's name, for the error.
    :raises InputError: if a value is out of the type's range.

    >>> fitting(torch.tensor([1, 2]), np.dtype("<i2"), "task").tolist()
    [1, 2]
    """
    limits = np.iinfo(dtype)
    low, high = int(values.min()), int(values.max())
    if low < limits.min or high > limits.max:
        raise InputError(f"a memory holds {name} from {limits.min} to {limits.max}, got {low} to {high}")
    return values.cpu().numpy().astype(dtype)


def id_bytes(y: torch.Tensor, kept: np.dtype | None) -> int:
    """Bytes per identity that a new batch and what is kept need: four hold class ids and captions; eight are needed
    where the identity of a pair has the number of an image too (:mod:`~avalanche_vlm.losses.identity`).

    :param y: class ids, or identities of pairs, ``[B]``.
    :param kept: type of the identities that are kept; None for nothing.

    >>> id_bytes(torch.tensor([3]), None), id_bytes(torch.tensor([3]), np.dtype("<i8"))
    (4, 8)
    >>> id_bytes(torch.tensor([1 << 32 | 3]), np.dtype("<i4"))
    8
    """
    limits = np.iinfo(np.int32)
    fits = not len(y) or (int(y.min()) >= limits.min and int(y.max()) <= limits.max)
    return max(0 if kept is None else kept.itemsize, 4 if fits else 8)


def token_bytes(tokens: torch.Tensor | None, rows: np.ndarray | None) -> int:
    """Bytes per token that a new batch and what is kept need: two hold the vocabularies of BPE; 0 without tokens.

    :param tokens: int64 ``[B, L]``.
    :param rows: what is kept, if anything is.
    """
    if tokens is None:
        return 0
    kept = rows.dtype["tokens"].base.itemsize if rows is not None and has_tokens(rows) else 0
    return max(kept, 2 if int(tokens.max()) < 2**16 else 4)


def has_tokens(rows: np.ndarray) -> bool:
    """Whether rows have a column of tokens.

    :param rows: rows with named columns.
    """
    return "tokens" in (rows.dtype.names or ())


def whole(value: int, least: int, name: str) -> int:
    """The value, if it is a whole number of ``least`` or more.

    :param value: the value to check.
    :param least: smallest value that is allowed.
    :param name: what the value is called, for the error.
    :return: the value itself.
    :raises InputError: if not, naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is a whole number of {least} or more, not {value!r}")
    return value
