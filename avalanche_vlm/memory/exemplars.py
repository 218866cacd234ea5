"""Exemplars, copied out of the stream and bounded in bytes or in number."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.memory.exemplar_rows import Budget, Policy, make_rows, text_length
from avalanche_vlm.memory.mixtures import Mixture, sample_weights
from avalanche_vlm.memory.packing import Json
from avalanche_vlm.memory.pixels import Codec, Payload, encode
from avalanche_vlm.memory.registry import register_memory
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.selection import random_keys
from avalanche_vlm.memory.stored_exemplars import StoredExemplars


@register_memory
class ExemplarMemory(StoredExemplars):
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
        super().__init__(Budget(max_bytes, max_samples), policy, seed, codec, quality, folder)

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
        :param y: class ids, or identities of pairs (:mod:`~avalanche_vlm.losses.identity`), ``[B]``.
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
