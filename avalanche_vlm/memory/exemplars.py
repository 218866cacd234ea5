"""Exemplars, copied out of the stream and bounded in bytes or in number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.files import load_memory, save_memory
from avalanche_vlm.memory.mixtures import Mixture, sample_weights
from avalanche_vlm.memory.pixels import Codec, Payload, PixelStore, check_codec, decode, encode, make_store
from avalanche_vlm.memory.rows import fitting, token_bytes, whole
from avalanche_vlm.memory.selection import keep, random_keys

Policy = Literal["class-balanced", "reservoir", "herding", "hardest"]


class ExemplarMemory:
    """Pictures with their labels (and tokens, for pairs) under a budget of bytes or of samples.

    Every sample that comes by has a key, and the smallest keys stay. Nothing of the data set is kept alive.

    ================== ============================================== ===================================
    policy             key                                            who shares the budget evenly
    ================== ============================================== ===================================
    ``reservoir``      random: a uniform sample of the stream         nobody
    ``class-balanced`` random                                         classes (for pairs: steps)
    ``herding``        rank of iCaRL's herding (arXiv 1611.07725)     classes (for pairs: steps), quotas
    ``hardest``        margin of retrieval, smallest first            steps
    ================== ============================================== ===================================

    Random keys are drawn here; the others come with the samples (:mod:`avalanche_vlm.memory.selection` computes them).

    :param max_bytes: bound on the bytes of all that is kept, labels and keys included.
    :param policy: which samples stay.
    :param seed: of the keys and of :meth:`sample`.
    :param max_samples: bound on the number instead of the bytes.
    :param codec: ``"uint8"`` or ``"png"`` keep every bit of an 8-bit picture, ``"jpeg"`` does not.
    :param quality: of JPEG, 1 to 100.
    :param folder: keep the pictures on disk, in a folder of this memory's own under it that lives as long as it does:
        memory-mapped, or as one image file each if they are encoded.
    :raises InputError: for a bad setting, or (when samples come) a budget that does not hold a single one.
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        policy: Policy = "class-balanced",
        seed: int = 0,
        *,
        max_samples: int | None = None,
        codec: Codec = "uint8",
        quality: int = 90,
        folder: str | Path | None = None,
    ) -> None:
        if policy not in get_args(Policy):
            raise InputError(f"an exemplar memory is {', '.join(get_args(Policy))}, not {policy!r}")
        check_codec(codec, quality)
        self.policy: Policy = policy
        self.codec: Codec = codec
        self.quality = quality
        self.folder = None if folder is None else Path(folder)
        self.max_bytes, self.max_samples = _one_budget(max_bytes, max_samples)
        self._draws = Draws(seed)
        self._rows: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()
        self._store: PixelStore | None = None

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def labels(self) -> torch.Tensor:
        """Class (or caption) ids of what is kept ``[n]``."""
        return self._column("y")

    @property
    def steps(self) -> torch.Tensor:
        """The experience that each kept sample comes from ``[n]``."""
        return self._column("step")

    def add(
        self,
        pixels: torch.Tensor,
        y: torch.Tensor,
        task_labels: torch.Tensor,
        tokens: torch.Tensor | None = None,
        *,
        step: int = 0,
        keys: torch.Tensor | None = None,
    ) -> None:
        """Offer a batch; at most the budget's worth stays.

        :param pixels: uint8 ``[B, 3, H, W]``.
        :param y: class ids, or caption ids for pairs, ``[B]``.
        :param task_labels: ``[B]``.
        :param tokens: ``[B, L]`` for pairs.
        :param step: the experience that they come from.
        :param keys: ``[B]``, needed by ``"herding"`` and ``"hardest"`` only.
        :raises InputError: for pictures of another type or shape than those kept, pairs among classes or the reverse,
            and if the budget holds none of them.
        """
        random = self.policy in ("reservoir", "class-balanced")
        if random == (keys is not None):
            raise InputError(f"policy {self.policy} {'draws its own' if random else 'needs'} keys")
        keys = random_keys(len(y), self._draws.next()) if keys is None else keys
        self._check(pixels, tokens)
        payload = encode(pixels.cpu().contiguous(), self.codec, self.quality)
        new = self._new_rows(payload, y, task_labels, tokens, step, keys)
        self._take(new, payload, tuple(pixels.shape[1:]))

    def sample(self, n: int, mixture: Mixture = "uniform") -> Columns:
        """``n`` samples without replacement, or all if there are fewer (with ``"single"``: in its step).

        :param mixture: how much comes from which step, see :func:`~avalanche_vlm.memory.mixtures.sample_weights`.
        :return: ``pixels`` uint8 ``[n, 3, H, W]``, ``y`` and ``task`` int64 ``[n]``, ``tokens`` int64 ``[n, L]`` for
            pairs.
        :raises InputError: if the memory is empty, or a stored picture is damaged or gone.
        """
        if self._rows is None:
            raise InputError("the exemplar memory is empty: there is nothing to sample")
        n, generator = whole(n, 0, "the number of samples"), self._draws.next()
        if mixture == "uniform" or n == 0:
            chosen = torch.randperm(len(self), generator=generator)[:n]
        else:
            weights = sample_weights(self.steps, mixture, generator)
            chosen = torch.multinomial(weights, min(n, int(weights.count_nonzero())), generator=generator)
        return self._read(chosen.numpy())

    def chunks(self, size: int = 256) -> Iterator[Columns]:
        """Everything that is kept, part by part: no draw is taken, and no more than a part is decoded at a time."""
        for start in range(0, len(self), size):
            yield self._read(np.arange(start, min(start + size, len(self))))

    def check_room(self, shape: tuple[int, ...]) -> None:
        """See before anything is trained whether raw pictures of this shape can be kept.

        :raises InputError: if the budget does not hold a single one; encoded, it is seen when they come.
        """
        if self.codec == "uint8" and self.max_bytes is not None:
            _check_budget(self.max_bytes, int(np.prod(shape)) + _row_type().itemsize)

    @property
    def capacity(self) -> int | None:
        """The largest number of samples that the budget can hold; None where it depends on how they are encoded."""
        if self.max_samples is not None or self._rows is None or self.codec != "uint8":
            return self.max_samples
        return self.max_bytes // (int(np.prod(self._shape)) + self._rows.itemsize)

    def stored(self) -> StoredBytes:
        if self._rows is None or self._store is None:
            return StoredBytes()
        return StoredBytes(ram=self._rows.nbytes) + self._store.stored()

    def resize(self, max_bytes: int | None = None, *, max_samples: int | None = None) -> None:
        """Set a new budget; what no longer fits is given up at once.

        :raises InputError: if the new budget does not hold a single exemplar.
        """
        budgets = _one_budget(max_bytes, max_samples)
        if self._rows is None or self._store is None:
            self.max_bytes, self.max_samples = budgets
            return
        before = self.max_bytes, self.max_samples
        self.max_bytes, self.max_samples = budgets
        try:
            rows = self._rows[self._kept(self._rows)]
            payload = [picture.copy() for picture in self._store.read(rows["slot"])]
        except InputError:
            self.max_bytes, self.max_samples = before
            raise
        self._clear()
        self._restore(rows, payload, self._shape)

    def save(self, folder: str | Path) -> None:
        """Write everything to ``memory.safetensors`` and ``memory.json``.

        :raises InputError: if the files cannot be written.
        """
        tensors = {}
        if self._rows is not None and self._store is not None:
            tensors["rows"] = torch.from_numpy(self._rows.view(np.uint8).reshape(len(self._rows), -1).copy())
            pictures = [np.zeros(0, dtype=np.uint8), *self._store.read(self._rows["slot"])]
            tensors["pictures"] = torch.from_numpy(np.concatenate(pictures))
        tokens = 0 if self._rows is None or "tokens" not in self._rows.dtype.names else self._rows.dtype["tokens"]
        settings: dict[str, Any] = {
            "max_bytes": self.max_bytes,
            "max_samples": self.max_samples,
            "policy": self.policy,
            "codec": self.codec,
            "quality": self.quality,
            "seed": self._draws.seed,
            "draws": self._draws.count,
            "shape": list(self._shape),
            "tokens": [tokens.shape[0], tokens.base.itemsize] if tokens else None,
        }
        save_memory(folder, "exemplars", tensors, settings)

    @classmethod
    def load(cls, folder: str | Path, keep_in: str | Path | None = None) -> Self:
        """Read what :meth:`save` wrote; the same draws follow.

        :param keep_in: folder to keep the pictures in from now on; None for RAM.
        :raises InputError: if the files are missing, truncated, changed or inconsistent.
        """
        tensors, settings = load_memory(folder, "exemplars")
        try:
            names = ("max_bytes", "policy", "seed", "max_samples", "codec", "quality")
            memory = cls(**{name: settings[name] for name in names}, folder=keep_in)
            memory._draws.count = whole(settings["draws"], 0, "the number of draws")
            if tensors:
                dtype = _row_type(*(settings["tokens"] or (0, 0)))
                rows = tensors["rows"].numpy().reshape(-1).view(dtype)
                ends = np.cumsum(rows["size"], dtype=np.int64)
                if len(rows) == 0 or ends[-1] != len(tensors["pictures"]):
                    raise ValueError("the pictures have another length than their sizes say")
                payload = np.split(tensors["pictures"].numpy(), ends[:-1])
                memory._restore(rows, payload, tuple(settings["shape"]))
        except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"the memory in {folder} is damaged: {error}") from error
        return memory

    def _read(self, chosen: np.ndarray) -> Columns:
        rows = self._rows[chosen]
        names = ("y", "task", "tokens") if "tokens" in rows.dtype.names else ("y", "task")
        batch = {name: torch.from_numpy(rows[name].astype(np.int64)) for name in names}
        return {"pixels": decode(self._store.read(rows["slot"]), self.codec, self._shape), **batch}

    def _check(self, pixels: torch.Tensor, tokens: torch.Tensor | None) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"exemplars are uint8 [B, 3, H, W], not {pixels.dtype} {list(pixels.shape)}")
        if self._rows is None:
            return
        kept = self._rows.dtype["tokens"].shape[0] if "tokens" in self._rows.dtype.names else 0
        new = 0 if tokens is None else tokens.shape[1]
        if tuple(pixels.shape[1:]) != self._shape or new != kept:
            raise InputError(
                f"the memory holds pictures {list(self._shape)} with {kept} tokens each, which cannot be mixed with "
                f"{list(pixels.shape[1:])} and {new} tokens"
            )

    def _column(self, name: str) -> torch.Tensor:
        values = np.zeros(0, dtype=np.int64) if self._rows is None else self._rows[name].astype(np.int64)
        return torch.from_numpy(values)

    def _new_rows(
        self,
        payload: Payload,
        y: torch.Tensor,
        task_labels: torch.Tensor,
        tokens: torch.Tensor | None,
        step: int,
        keys: torch.Tensor,
    ) -> np.ndarray:
        dtype = _row_type(0 if tokens is None else tokens.shape[1], token_bytes(tokens, self._rows))
        if self._rows is not None and self._rows.dtype != dtype:
            self._rows = self._rows.astype(dtype)
        rows = np.zeros(len(y), dtype)
        for name, values in (("y", y), ("task", task_labels), ("step", torch.tensor([step]))):
            rows[name] = fitting(values, dtype[name], name)
        rows["key"] = keys.cpu().numpy()
        rows["size"] = [len(picture) for picture in payload]
        if tokens is not None:
            rows["tokens"] = tokens.cpu().numpy()
        return rows

    def _take(self, new: np.ndarray, payload: Payload, shape: tuple[int, ...]) -> None:
        """Choose among what is there and what is new, and store the choice."""
        old = new[:0] if self._rows is None else self._rows
        kept = self._kept(np.concatenate([old, new]))
        self._open(shape, new.dtype)
        stay, come = kept[kept < len(old)], kept[kept >= len(old)] - len(old)
        rows = np.concatenate([old[stay], new[come]])
        slots = self._store.replace(old["slot"][stay], [payload[i] for i in come])
        rows["slot"] = np.concatenate(slots)
        self._rows = rows

    def _restore(self, rows: np.ndarray, payload: Payload, shape: tuple[int, ...]) -> None:
        """Keep exactly these: a policy that chose among more might choose again among fewer."""
        self._open(shape, rows.dtype)
        rows = rows.copy()
        rows["slot"] = self._store.replace(np.zeros(0, dtype=np.int64), payload)[1]
        self._rows = rows
        if self.stored().total > (self.max_bytes or math.inf) or len(rows) > (self.max_samples or math.inf):
            raise ValueError("it holds more than its budget")

    def _open(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if self._store is not None:
            return
        self._shape = shape
        size = int(np.prod(shape))
        capacity = self.max_samples if self.max_bytes is None else self.max_bytes // (size + dtype.itemsize)
        self._store = make_store(self.codec, capacity, size, self.folder)

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        """Indices of the rows that the policy keeps within the budget."""
        # Where an encoded picture lies is one number more; see the stores.
        each = rows.dtype.itemsize + (0 if self.codec == "uint8" else 8)
        sizes = torch.from_numpy(rows["size"].astype(np.int64) + each)
        if self.max_bytes is not None:
            _check_budget(self.max_bytes, int(sizes.min()))
        groups = None
        if self.policy != "reservoir":
            by_step = self.policy == "hardest" or "tokens" in rows.dtype.names
            groups = torch.from_numpy(rows["step" if by_step else "y"].astype(np.int64))
        if self.max_bytes is None:
            sizes, budget = torch.ones_like(sizes), self.max_samples
        else:
            budget = self.max_bytes
        keys = torch.from_numpy(rows["key"].copy())
        return keep(keys, sizes, budget, groups, quotas=self.policy == "herding").numpy()

    def _clear(self) -> None:
        self._store.replace(np.zeros(0, dtype=np.int64), [])
        self._rows = self._store = None


@cache  # a structured type costs more than a row: all memories share theirs
def _row_type(length: int = 0, token_bytes: int = 0) -> np.dtype:
    """What is kept of a sample besides its picture."""
    names = ("y", "task", "step", "key", "slot", "size")
    fields: list[tuple] = list(zip(names, ("<i4", "<i2", "<i2", "<f4", "<i4", "<i4"), strict=True))
    if length:
        fields.append(("tokens", f"<u{token_bytes}", (length,)))
    return np.dtype(fields)


def _check_budget(max_bytes: int, each: int) -> None:
    if each > max_bytes:
        raise InputError(f"a memory of {max_bytes} bytes cannot hold one exemplar of {each} bytes")


def _one_budget(max_bytes: int | None, max_samples: int | None) -> tuple[int | None, int | None]:
    if (max_bytes is None) == (max_samples is None):
        raise InputError("an exemplar memory is bounded either by max_bytes or by max_samples")
    if max_samples is not None:
        whole(max_samples, 1, "max_samples")
    else:
        whole(max_bytes, 1, "max_bytes")
    return max_bytes, max_samples
