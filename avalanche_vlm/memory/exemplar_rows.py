"""What is kept of an exemplar besides its picture, and which exemplars stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.pixels import Codec, Payload
from avalanche_vlm.memory.rows import fitting, has_tokens, id_bytes, token_bytes, whole
from avalanche_vlm.memory.selection import keep

Policy = Literal["class-balanced", "reservoir", "herding", "hardest"]


@cache  # a structured type costs more than a row: all memories share theirs
def row_type(length: int = 0, token_bytes: int = 0, id_bytes: int = 4) -> np.dtype:
    """The type of the rows, one for each exemplar.

    :param length: tokens of a text, 0 without texts.
    :param token_bytes: bytes of a token, 0 without texts.
    :param id_bytes: bytes of a class id or a pair's identity.

    >>> row_type(77, 2).itemsize - row_type().itemsize, row_type(id_bytes=8).itemsize - row_type().itemsize
    (154, 4)
    """
    names = ("y", "task", "step", "key", "slot", "size")
    fields: list[tuple] = list(zip(names, (f"<i{id_bytes}", "<i2", "<i2", "<f4", "<i4", "<i4"), strict=True))
    if length:
        fields.append(("tokens", f"<u{token_bytes}", (length,)))
    return np.dtype(fields)


def text_length(rows: np.ndarray | None) -> int:
    """Tokens that every exemplar has.

    :param rows: what is kept; None for nothing.
    """
    return rows.dtype["tokens"].shape[0] if rows is not None and has_tokens(rows) else 0


def same_row_type(rows: np.ndarray) -> np.dtype:
    """The shared type of rows of this form.

    :param rows: rows as they come from a state.
    :raises ValueError: if they are none of exemplars.
    """
    length, ids = text_length(rows), rows.dtype["y"].itemsize if "y" in (rows.dtype.names or ()) else 0
    if ids not in (4, 8):
        raise ValueError("its rows are not those of exemplars")
    dtype = row_type(length, rows.dtype["tokens"].base.itemsize if length else 0, ids)
    if rows.dtype != dtype or rows.ndim != 1:
        raise ValueError("its rows are not those of exemplars")
    return dtype


def make_rows(
    payload: Payload,
    y: torch.Tensor,
    task_labels: torch.Tensor,
    tokens: torch.Tensor | None,
    step: int,
    keys: torch.Tensor,
    kept: np.ndarray | None,
) -> np.ndarray:
    """Rows of a batch, of a type that holds what is kept as well.

    :param payload: pictures as they will be stored.
    :param y: class ids, or identities of pairs, ``[B]``.
    :param task_labels: task labels ``[B]``.
    :param tokens: ``[B, L]`` for pairs, otherwise None.
    :param step: the experience that they come from.
    :param keys: ``[B]``, of which the smallest stay.
    :param kept: rows of what is kept; None for nothing.
    :raises InputError: for a number that its column does not hold.
    """
    ids = id_bytes(y, None if kept is None else kept.dtype["y"])
    dtype = row_type(0 if tokens is None else tokens.shape[1], token_bytes(tokens, kept), ids)
    rows = np.zeros(len(y), dtype)
    for name, values in (("y", y), ("task", task_labels), ("step", torch.tensor([step]))):
        rows[name] = fitting(values, dtype[name], name)
    rows["key"] = keys.cpu().numpy()
    rows["size"] = [len(picture) for picture in payload]
    if tokens is not None:
        rows["tokens"] = tokens.cpu().numpy()
    return rows


@dataclass(frozen=True)
class Budget:
    """How much an exemplar memory may keep: one of the two.

    :param max_bytes: bound on the bytes, 1 or more.
    :param max_samples: bound on the number of exemplars, 1 or more.
    :raises InputError: for a bad bound, none, or both.
    """

    max_bytes: int | None
    max_samples: int | None

    def __post_init__(self) -> None:
        if (self.max_bytes is None) == (self.max_samples is None):
            raise InputError("an exemplar memory is bounded either by max_bytes or by max_samples")
        if self.max_samples is not None:
            whole(self.max_samples, 1, "max_samples")
        if self.max_bytes is not None:
            whole(self.max_bytes, 1, "max_bytes")

    def check(self, each: int) -> None:
        """See whether it holds an exemplar.

        :param each: bytes of one.
        :raises InputError: if it does not.
        """
        if self.max_bytes is not None and each > self.max_bytes:
            raise InputError(f"a memory of {self.max_bytes} bytes cannot hold one exemplar of {each} bytes")

    def capacity(self, each: int) -> int:
        """Exemplars that it holds at most.

        :param each: bytes of one.
        """
        return self.max_samples if self.max_bytes is None else self.max_bytes // each  # type: ignore[return-value]

    def holds(self, rows: np.ndarray, codec: Codec) -> bool:
        """Whether it holds all of these.

        :param rows: rows of exemplars.
        :param codec: how their pictures are kept.
        """
        if self.max_bytes is None:
            return len(rows) <= self.capacity(1)
        return int(_bytes_of_each(rows, codec).sum()) <= self.max_bytes

    def chosen(self, rows: np.ndarray, policy: Policy, codec: Codec) -> np.ndarray:
        """Indices of the rows that stay, ascending.

        :param rows: rows of all exemplars to choose among.
        :param policy: which of them stay.
        :param codec: how their pictures are kept.
        :raises InputError: if it does not hold one of them.
        """
        sizes = torch.from_numpy(_bytes_of_each(rows, codec))
        self.check(int(sizes.min()))
        groups = None
        if policy != "reservoir":
            by_step = policy == "hardest" or text_length(rows) > 0
            groups = torch.from_numpy(rows["step" if by_step else "y"].astype(np.int64))
        keys, quotas = torch.from_numpy(rows["key"].copy()), policy == "herding"
        if self.max_bytes is None:
            return keep(keys, torch.ones_like(sizes), self.capacity(1), groups, quotas).numpy()
        return keep(keys, sizes, self.max_bytes, groups, quotas).numpy()


def _bytes_of_each(rows: np.ndarray, codec: Codec) -> np.ndarray:
    """Bytes of every exemplar, its picture included."""
    # Where an encoded picture lies is one number more; see the stores.
    return rows["size"].astype(np.int64) + rows.dtype.itemsize + (0 if codec == "uint8" else 8)
