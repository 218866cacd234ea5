"""Activations of a frozen lower tower, in one or two bytes per value, bounded in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns, Memory
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.packing import Json
from avalanche_vlm.memory.quantize import dequantize_int8, quantize_int8, to_fp16
from avalanche_vlm.memory.registry import register_memory
from avalanche_vlm.memory.rows import fitting, has_tokens, id_bytes, token_bytes, whole
from avalanche_vlm.memory.selection import keep, random_keys
from avalanche_vlm.memory.state import KEPT, WORKING

LatentPrecision = Literal["fp16", "int8"]


@register_memory
class LatentMemory(Memory):
    """Latents with their labels (and tokens, for pairs) under a budget of bytes.

    Every sample that comes by has a random key, and classes (for pairs: steps) share the budget evenly: the smallest
    keys of each stay, a uniform sample of what it offered.

    :param max_bytes: bound on the bytes of all that is kept, labels and keys included.
    :param precision: ``"fp16"``, two bytes per value, or ``"int8"``, one byte per value and four per row: a row is a
        token's vector in a transformer's ``[L, D]``, a channel's map in a convolution's ``[C, H, W]``. The errors are
        bounded as in :mod:`avalanche_vlm.memory.quantize`.
    :param seed: seed of the keys and of :meth:`sample`, 0 or more.
    :raises InputError: for a bad setting, or (when samples come) a budget that does not hold a single one.
    """

    name = "latents"
    states: ClassVar = {
        "max_bytes": WORKING,
        "raw_text": WORKING,
        "_draws": WORKING,
        "_shape": WORKING,
        "_rows": KEPT,
    }

    max_bytes: int

    def __init__(self, max_bytes: int, precision: LatentPrecision = "fp16", seed: int = 0) -> None:
        if precision not in get_args(LatentPrecision):
            raise InputError(f"a latent memory keeps {' or '.join(get_args(LatentPrecision))}, not {precision!r}")
        self.max_bytes = whole(max_bytes, 1, "the budget of a latent memory")
        self.precision: LatentPrecision = precision
        self.raw_text = False
        self._draws = Draws(seed)
        self._rows: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def labels(self) -> torch.Tensor:
        """Class ids (or identities of pairs) of what is kept, int64 ``[n]``."""
        values = np.zeros(0, "i8") if self._rows is None else self._rows["y"].astype("i8")
        return torch.from_numpy(values)

    def check_room(self, shape: tuple[int, ...], tokens: int = 0) -> None:
        """See before anything is trained whether latents of this shape can be kept.

        :param shape: shape of one sample's latents.
        :param tokens: number of tokens of its text, 0 without a text.
        :raises InputError: if the budget does not hold a single one.
        """
        self._kept(np.zeros(1, "f4"), np.zeros(1), _row_dtype(self.precision, shape, tokens, 2, 4).itemsize)

    def add(
        self,
        latents: torch.Tensor,
        y: torch.Tensor,
        task_labels: torch.Tensor,
        tokens: torch.Tensor | None = None,
        *,
        step: int = 0,
        raw_text: bool = True,
    ) -> None:
        """Offer a batch; at most the budget's worth stays.

        :param latents: floating point ``[B, ...]``, of one shape for the whole memory.
        :param y: class ids, or identities of pairs (:mod:`~avalanche_vlm.losses.identity`), ``[B]``.
        :param task_labels: task label of each sample ``[B]``.
        :param tokens: ``[B, L]`` for pairs, otherwise None.
        :param step: the experience that they come from.
        :param raw_text: the tokens are texts of the user's, such as captions, and count as raw data. False for prompts
            that follow from class names.
        :raises InputError: if samples differ in kind from those kept, if a latent is not finite or too large for half
            precision, or if the budget does not hold a single sample.
        """
        if len(y) == 0:
            return
        raw_text = self.raw_text or (tokens is not None and raw_text)
        shape = tuple(latents.shape[1:])
        dtype = self._row_type(shape, y, tokens)
        new = {"y": y, "task": task_labels, "step": torch.full_like(y, step)}
        columns = {name: fitting(values, dtype[name], name) for name, values in new.items()}
        columns["key"] = random_keys(len(y), self._draws.next()).numpy()
        old = np.zeros(0, dtype) if self._rows is None else self._rows.astype(dtype, copy=False)
        group = "y" if tokens is None else "step"
        keys, groups = (np.concatenate([old[name], columns[name]]) for name in ("key", group))
        kept = self._kept(keys, groups, dtype.itemsize)
        come = kept[kept >= len(old)] - len(old)
        rows = np.zeros(len(come), dtype)
        for name, values in columns.items():
            rows[name] = values[come]
        chosen = torch.from_numpy(come)
        if tokens is not None:
            rows["tokens"] = tokens.cpu()[chosen].numpy()
        self._encode(latents[chosen.to(latents.device)], rows)
        gone = np.setdiff1d(np.arange(len(old)), kept)
        self._rows, self._shape, self.raw_text = _exchange(old, gone, rows), shape, raw_text

    def sample(self, n: int) -> Columns:
        """``n`` samples without replacement, or all if there are fewer.

        :param n: samples to draw, 0 or more.
        :return: ``latents`` float32 ``[n, ...]``, ``y`` and ``task`` int64 ``[n]``, ``tokens`` int64 ``[n, L]`` for
            pairs.
        :raises InputError: if nothing is kept.
        """
        if self._rows is None:
            raise InputError("the latent memory is empty: there is nothing to sample")
        n = whole(n, 0, "the number of samples")
        rows = self._rows[torch.randperm(len(self), generator=self._draws.next())[:n].numpy()]
        names = [name for name in ("y", "task", "tokens") if name in rows.dtype.names]
        return {"latents": self._decode(rows), **{name: torch.from_numpy(rows[name].astype("i8")) for name in names}}

    def resize(self, max_bytes: int) -> None:
        """Set a new budget; what no longer fits is given up at once.

        :param max_bytes: bound on the bytes of all that is kept, at least 1.
        :raises InputError: if the new budget does not hold a single sample; then nothing changes.
        """
        before, self.max_bytes = self.max_bytes, whole(max_bytes, 1, "the budget of a latent memory")
        if self._rows is None:
            return
        rows = self._rows
        group = "step" if has_tokens(rows) else "y"
        try:
            self._rows = rows[self._kept(rows["key"], rows[group], rows.itemsize)]
        except InputError:
            self.max_bytes = before
            raise

    @property
    def settings(self) -> dict[str, Json]:
        """Arguments of the constructor that make a memory that can take this one's state."""
        return {"max_bytes": self.max_bytes, "precision": self.precision, "seed": self._draws.seed}

    def raw_attributes(self) -> list[str]:
        """The samples, if the texts among them are the user's: latents are no pictures."""
        return ["_rows"] if self.raw_text else []

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Empty the memory: samples of another kind may come."""
        self._rows = None

    def check(self) -> None:
        """See whether the samples are what a memory of this precision and budget keeps.

        :raises ValueError: if they are not.
        """
        rows = self._rows
        if rows is None:
            return
        tokens = rows["tokens"] if has_tokens(rows) else None
        text = (0, 0) if tokens is None else (tokens.shape[1], tokens.itemsize)
        ids = 8 if "y" in (rows.dtype.names or ()) and rows.dtype["y"].itemsize == 8 else 4
        dtype = _row_dtype(self.precision, tuple(self._shape), *text, ids)
        if rows.dtype != dtype or rows.ndim != 1 or not len(rows):
            raise ValueError(f"its samples are not {self.precision} latents of the shape {list(self._shape)}")
        if rows.nbytes > self.max_bytes:
            raise ValueError(f"it holds {rows.nbytes} bytes of at most {self.max_bytes}")
        self._rows = rows.view(dtype)  # the type that all memories share

    def _row_type(self, shape: tuple[int, ...], y: torch.Tensor, tokens: torch.Tensor | None) -> np.dtype:
        """What a row has to be to hold what is there and a new batch."""
        length = 0 if tokens is None else tokens.shape[1]
        if self._rows is not None:
            old = self._rows["tokens"] if has_tokens(self._rows) else np.zeros((0, 0), "u1")
            if shape != self._shape or length != old.shape[1]:
                raise InputError(
                    f"the latent memory holds latents {list(self._shape)} with {old.shape[1]} tokens each, which "
                    f"cannot be mixed with {list(shape)} and {length} tokens"
                )
        ids = id_bytes(y, None if self._rows is None else self._rows.dtype["y"])
        return _row_dtype(self.precision, shape, length, token_bytes(tokens, self._rows), ids)

    def _kept(self, keys: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
        """Indices, in ascending order, of what stays within the budget."""
        if size > self.max_bytes:
            raise InputError(f"a memory of {self.max_bytes} bytes cannot hold one sample of {size} bytes")
        sizes = torch.full((len(keys),), size)
        of_groups = torch.from_numpy(groups.astype(np.int64))
        return keep(torch.from_numpy(keys.copy()), sizes, self.max_bytes, of_groups).numpy()

    def _encode(self, latents: torch.Tensor, rows: np.ndarray) -> None:
        if not len(rows):
            return
        # Checked and rounded where the latents are: half as much to move from a GPU, or a quarter.
        if self.precision == "fp16":
            rows["latent"] = to_fp16(latents.detach()).cpu().numpy()
            return
        values, scale = quantize_int8(latents.detach().flatten(2) if latents.ndim > 2 else latents.detach())
        rows["latent"], rows["scale"] = values.view(latents.shape).cpu().numpy(), scale.cpu().numpy()

    def _decode(self, rows: np.ndarray) -> torch.Tensor:
        # Fields of packed rows are strided and unaligned: torch takes neither.
        latents = torch.from_numpy(np.array(rows["latent"], order="C"))
        if self.precision == "fp16":
            return latents.float()
        values = latents.flatten(2) if latents.ndim > 2 else latents
        return dequantize_int8(values, torch.from_numpy(np.array(rows["scale"], order="C"))).view(latents.shape)


@cache  # a structured type costs as much as many samples: all memories share theirs
def _row_dtype(
    precision: LatentPrecision, shape: tuple[int, ...], length: int, token_bytes: int, id_bytes: int
) -> np.dtype:
    """Everything that is kept of a sample, without gaps."""
    if not shape or math.prod(shape) < 1:
        raise InputError(f"latents are [B, ...] with at least one value each, not [B, {', '.join(map(str, shape))}]")
    fields: list[tuple] = [("y", f"<i{id_bytes}"), ("task", "<i2"), ("step", "<i2"), ("key", "<f4")]
    if length:
        fields.append(("tokens", f"<u{token_bytes}", (length,)))
    if precision == "fp16":
        return np.dtype([*fields, ("latent", "<f2", shape)])
    return np.dtype([*fields, ("latent", "i1", shape), ("scale", "<f4", shape[:1] if len(shape) > 1 else ())])


def _exchange(rows: np.ndarray, gone: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows without those that go and with the new ones, in their places as far as possible: a full memory that takes in
    a stream is not copied at every batch."""
    both = min(len(gone), len(new))
    rows[gone[:both]] = new[:both]
    if len(gone) > both:
        return np.delete(rows, gone[both:])
    return np.concatenate([rows, new[both:]]) if len(new) > both else rows
