"""Exemplars, copied out of the stream and bounded in bytes or in number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns, Memory
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.exemplar_rows import Budget, Policy, make_rows, row_type, same_row_type, text_length
from avalanche_vlm.memory.mixtures import Mixture, sample_weights
from avalanche_vlm.memory.packing import Json, StateDict
from avalanche_vlm.memory.pixels import Codec, Payload, PixelStore, check_codec, decode, encode, make_store
from avalanche_vlm.memory.registry import register_memory
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.selection import random_keys
from avalanche_vlm.memory.state import RAW, WORKING, Declared


@register_memory
class ExemplarMemory(Memory):
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
    :param seed: seed of the keys and of :meth:`sample`, 0 or more.
    :param max_samples: bound on the number instead of the bytes.
    :param codec: ``"uint8"`` or ``"png"`` keep every bit of an 8-bit picture, ``"jpeg"`` does not.
    :param quality: quality of JPEG, 1 to 100.
    :param folder: keep the pictures on disk, in a folder of this memory's own under it that lives as long as it does:
        memory-mapped, or as one image file each if they are encoded.
    :raises InputError: for a bad setting, or (when samples come) a budget that does not hold a single one.
    """

    name = "exemplars"
    states: ClassVar = {
        "max_bytes": WORKING,
        "max_samples": WORKING,
        "_draws": WORKING,
        "_shape": WORKING,
        "_rows": RAW,
        "_store": Declared(kept=True, saved=False),  # its pictures are in the state as they are stored
    }

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
        self._limit(Budget(max_bytes, max_samples))
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
        :param task_labels: task label of each sample ``[B]``.
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
        new = make_rows(payload, y, task_labels, tokens, step, keys, self._rows)
        self._take(new, payload, tuple(pixels.shape[1:]))

    def sample(self, n: int, mixture: Mixture = "uniform") -> Columns:
        """``n`` samples without replacement, or all if there are fewer (with ``"single"``: in its step).

        :param n: samples to draw, 0 or more.
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
        """Everything that is kept, part by part: no draw is taken, and no more than a part is decoded at a time.

        :param size: samples of a part, at least 1.
        """
        for start in range(0, len(self), size):
            yield self._read(np.arange(start, min(start + size, len(self))))

    def check_room(self, shape: tuple[int, ...]) -> None:
        """See before anything is trained whether raw pictures of this shape can be kept.

        :param shape: shape of one picture, ``(3, H, W)``.
        :raises InputError: if the budget does not hold a single one; encoded, it is seen when they come.
        """
        if self.codec == "uint8" and self.max_bytes is not None:
            self._budget.check(int(np.prod(shape)) + row_type().itemsize)

    @property
    def capacity(self) -> int | None:
        """The largest number of samples that the budget can hold; None where it depends on how they are encoded."""
        if self.max_samples is not None or self._rows is None or self.codec != "uint8":
            return self.max_samples
        return self._budget.capacity(int(np.prod(self._shape)) + self._rows.itemsize)

    def resize(self, max_bytes: int | None = None, *, max_samples: int | None = None) -> None:
        """Set a new budget; what no longer fits is given up at once.

        :param max_bytes: bound on the bytes of all that is kept; None with ``max_samples``.
        :param max_samples: bound on the number of exemplars; None with ``max_bytes``.
        :raises InputError: if the new budget does not hold a single exemplar; the memory is then as before.
        """
        before, new = self._budget, Budget(max_bytes, max_samples)
        self._limit(new)
        if self._rows is None or self._store is None:
            return
        try:
            rows = self._rows[new.chosen(self._rows, self.policy, self.codec)]
            payload = [picture.copy() for picture in self._store.read(rows["slot"])]
        except InputError:
            self._limit(before)
            raise
        self._clear()
        self._restore(rows, payload)

    @property
    def settings(self) -> dict[str, Json]:
        """Arguments of the constructor that make a memory that can take this one's state, in RAM or on disk."""
        return {
            "max_bytes": self.max_bytes,
            "policy": self.policy,
            "seed": self._draws.seed,
            "max_samples": self.max_samples,
            "codec": self.codec,
            "quality": self.quality,
        }

    def state_dict(self) -> StateDict:
        """Everything that is kept, pictures as they are stored, from disk as well."""
        state = super().state_dict()
        if self._rows is not None and self._store is not None:
            pictures = [np.zeros(0, dtype=np.uint8), *self._store.read(self._rows["slot"])]
            state["pictures"] = torch.from_numpy(np.concatenate(pictures))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep exactly what a state says, where this memory keeps its pictures.

        :param state: what :meth:`state_dict` of a memory with the same policy and codec gave, in RAM or on disk.
        :raises InputError: if it is damaged or does not fit.
        """
        self._clear()
        super().load_state_dict({name: entry for name, entry in state.items() if name != "pictures"})
        if self._rows is None:
            return
        try:
            rows, pictures = self._rows, state["pictures"].cpu().numpy()
            rows, ends = rows.view(same_row_type(rows)), np.cumsum(rows["size"], dtype=np.int64)
            if len(rows) == 0 or ends[-1] != len(pictures):
                raise ValueError("the pictures have another length than their sizes say")
            if self.codec == "uint8" and (rows["size"] != np.prod(self._shape)).any():
                raise ValueError(f"there are pictures of another shape than {list(self._shape)}")
            self._restore(rows, np.split(pictures, ends[:-1]))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"the state given to {type(self).__name__} is damaged: {error}") from error

    @classmethod
    def load(cls, folder: str | Path, keep_in: str | Path | None = None) -> Self:
        """Read what :meth:`save` wrote; the same draws follow. Nothing in the files is executed.

        :param folder: where it was written.
        :param keep_in: folder to keep the pictures in from now on; None for RAM.
        :raises InputError: if the files are missing, truncated, changed or inconsistent.
        """
        return cls._loaded(folder, folder=keep_in)

    @property
    def _budget(self) -> Budget:
        return Budget(self.max_bytes, self.max_samples)

    def _limit(self, budget: Budget) -> None:
        self.max_bytes, self.max_samples = budget.max_bytes, budget.max_samples

    def _read(self, chosen: np.ndarray) -> Columns:
        if self._rows is None or self._store is None:
            raise InputError("the exemplar memory is empty: there is nothing to read")
        rows = self._rows[chosen]
        names = ("y", "task", "tokens") if text_length(rows) else ("y", "task")
        batch = {name: torch.from_numpy(rows[name].astype(np.int64)) for name in names}
        return {"pixels": decode(self._store.read(rows["slot"]), self.codec, self._shape), **batch}

    def _check(self, pixels: torch.Tensor, tokens: torch.Tensor | None) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"exemplars are uint8 [B, 3, H, W], not {pixels.dtype} {list(pixels.shape)}")
        if self._rows is None:
            return
        kept = text_length(self._rows)
        new = 0 if tokens is None else tokens.shape[1]
        if tuple(pixels.shape[1:]) != self._shape or new != kept:
            raise InputError(
                f"the memory holds pictures {list(self._shape)} with {kept} tokens each, which cannot be mixed with "
                f"{list(pixels.shape[1:])} and {new} tokens"
            )

    def _column(self, name: str) -> torch.Tensor:
        values = np.zeros(0, dtype=np.int64) if self._rows is None else self._rows[name].astype(np.int64)
        return torch.from_numpy(values)

    def _take(self, new: np.ndarray, payload: Payload, shape: tuple[int, ...]) -> None:
        """Choose among what is there and what is new, and store the choice."""
        old = new[:0] if self._rows is None else self._rows.astype(new.dtype, copy=False)
        kept = self._budget.chosen(np.concatenate([old, new]), self.policy, self.codec)
        self._shape = shape
        store = self._opened(new.dtype)
        stay, come = kept[kept < len(old)], kept[kept >= len(old)] - len(old)
        rows = np.concatenate([old[stay], new[come]])
        rows["slot"] = np.concatenate(store.replace(old["slot"][stay], [payload[i] for i in come]))
        self._rows = rows

    def _restore(self, rows: np.ndarray, payload: Payload) -> None:
        """Keep exactly these: a policy that chose among more might choose again among fewer."""
        if not self._budget.holds(rows, self.codec):
            raise ValueError("it holds more than its budget")
        store, rows = self._opened(rows.dtype), rows.copy()
        rows["slot"] = store.replace(np.zeros(0, dtype=np.int64), payload)[1]
        self._rows = rows

    def _opened(self, dtype: np.dtype) -> PixelStore:
        if self._store is None:
            size = int(np.prod(self._shape))
            self._store = make_store(self.codec, self._budget.capacity(size + dtype.itemsize), size, self.folder)
        return self._store

    def _clear(self) -> None:
        if self._store is not None:
            self._store.replace(np.zeros(0, dtype=np.int64), [])
        self._rows = self._store = None
