"""Densities with their labels under a budget: what a memory of statistics keeps, and how it gets coarser."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.memory.base import Memory
from avalanche_vlm.memory.densities import DTYPES, Densities, DensityKind, DensityPrecision
from avalanche_vlm.memory.density_levels import Level, check_level, density_bytes, described, levels, lowered, width
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.rows import id_bytes, whole
from avalanche_vlm.memory.state import KEPT, WORKING

_IDS = ("y", "task", "step", "count")


class DensityMemory(Memory):
    """Base of memories that keep densities, each with its class, task label, step and number of samples.

    Over ``max_bytes`` all densities together step down a level, see
    :func:`~avalanche_vlm.memory.density_levels.levels`.

    :param level: how much is kept of each density at first.
    :param max_bytes: bound on the bytes of all that is kept; None for no bound.
    :param seed: seed of the draws, 0 or more.
    :param spread: whether ``"kmeans"`` keeps a variance per centre.
    :raises InputError: for a bad setting.
    """

    grows_with_data = False
    states: ClassVar = {
        "max_bytes": WORKING,
        "_level": WORKING,
        "_draws": WORKING,
        "_dim": WORKING,
        "_packed": KEPT,
    }

    def __init__(self, level: Level, max_bytes: int | None, seed: int, spread: bool) -> None:
        check_level(level)
        self.max_bytes = None if max_bytes is None else whole(max_bytes, 1, "max_bytes")
        self.spread = spread
        self._level = level if level.kind in ("gmm", "kmeans") else level._replace(components=1)
        self._draws = Draws(seed)
        # Arrays: a tensor's own bookkeeping is as large as a prototype, and the bytes of this memory are counted.
        self._packed: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._dim = 0

    def __len__(self) -> int:
        return 0 if self._packed is None else len(self._packed[2])

    @property
    def _densities(self) -> Densities | None:
        """What is kept, as a view."""
        if self._packed is None:
            return None
        values, numbers = (torch.from_numpy(part) for part in self._packed[:2])
        return Densities(self.kind, self._dim, values, numbers)

    @property
    def _ids(self) -> torch.Tensor:
        """Class, task label, step and count of each density, ``[G, 4]``, as a view: int32, or int64 where
        a class needs it."""
        if self._packed is None:
            return torch.zeros(0, len(_IDS), dtype=torch.int32)
        return torch.from_numpy(self._packed[2])

    def _keep(self, densities: Densities, ids: torch.Tensor) -> None:
        self._dim = densities.dim
        self._packed = (densities.values.numpy().copy(), densities.numbers.numpy().copy(), ids.numpy().copy())

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        return self._draws.seed

    @property
    def kind(self) -> DensityKind:
        """What every density is at present."""
        return self._level.kind

    @property
    def precision(self) -> DensityPrecision:
        """How every density is kept at present."""
        return self._level.precision

    @property
    def components(self) -> int:
        """Components per density at present."""
        return self._level.components

    @property
    def labels(self) -> torch.Tensor:
        """The class of each density, or -1 if it stands for several, int64 ``[G]``."""
        return self._ids[:, 0].long()

    @property
    def task_labels(self) -> torch.Tensor:
        """The task label of each density, or -1 if it stands for several, int64 ``[G]``."""
        return self._ids[:, 1].long()

    @property
    def steps(self) -> torch.Tensor:
        """The experience that each density comes from, int64 ``[G]``."""
        return self._ids[:, 2].long()

    @property
    def counts(self) -> torch.Tensor:
        """Samples that each density was fitted on, int64 ``[G]``."""
        return self._ids[:, 3].long()

    @property
    def means(self) -> torch.Tensor:
        """The mean of each density, float32 ``[G, D]``; not of unit length."""
        densities = self._filled()
        return (densities.weights[..., None] * densities.means).sum(1)

    def resize(self, max_bytes: int) -> None:
        """Set a new budget; what no longer fits is simplified at once.

        :param max_bytes: bound on the bytes of all that is kept.
        :raises InputError: if not even prototypes fit; the memory is then as before.
        """
        if self._densities is not None:
            level = self._fitting_level(self._ids, self._densities.dim, max_bytes)
            self._keep(self._lowered(self._densities, level), self._ids)
            self.max_bytes = max_bytes
            self._step_to(level)
        self.max_bytes = max_bytes

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Empty the memory: densities at another level may come."""
        self._packed = None

    def check(self) -> None:
        """See whether the densities are what the level says.

        :raises ValueError: if they are not.
        """
        check_level(self._level)
        if self._packed is None:
            return
        values, numbers, ids = (torch.from_numpy(part) for part in self._packed)
        count, components, dim = len(ids), self.components, whole(self._dim, 1, "the width of features")
        expected = {
            "values": (values, DTYPES[self.precision], (count, components, dim + width(self.kind, dim, self.spread))),
            "numbers": (numbers, torch.float32, (count, components, 3)),
            "ids": (ids, torch.int64 if ids.dtype == torch.int64 else torch.int32, (count, len(_IDS))),
        }
        for name, (tensor, dtype, shape) in expected.items():
            if tensor.dtype != dtype or tensor.shape != shape or not tensor.isfinite().all():
                raise ValueError(f"its {name} are not {count} sets of finite numbers as its level says")

    def _filled(self) -> Densities:
        if self._densities is None:
            raise InputError("the feature memory is empty: it was not fitted yet")
        return self._densities

    def _ids_with(self, new: list[tuple[int, int, int, int]]) -> torch.Tensor:
        """The ids of what is kept and of new densities, as narrow as they can be."""
        ids = torch.cat([self._ids.long(), torch.tensor(new, dtype=torch.int64)])
        return ids if id_bytes(ids, None) == 8 else ids.int()

    def _fitting_level(self, ids: torch.Tensor, dim: int, max_bytes: int | None) -> Level:
        """The first level from the present one down that holds the densities with these ids."""
        count, need = len(ids), 0
        for level in levels(self._level):
            need = count * density_bytes(level, dim, self.spread) + ids.nbytes
            if max_bytes is None or need <= max_bytes:
                return level
        raise InputError(
            f"a feature memory of {max_bytes} bytes cannot hold {count} densities: even prototypes take {need} bytes"
        )

    def _step_to(self, level: Level) -> None:
        """Be at a level from now on, and say so where it is a lower one."""
        before, self._level = self._level, level
        if level != before:
            warnings.warn(
                f"{len(self)} densities of {self._dim} dimensions do not fit the budget of {self.max_bytes} bytes as "
                f"{described(before)}: all are kept as {described(level)} from now on",
                VLMWarning,
                stacklevel=3,
            )

    def _lowered(self, densities: Densities, level: Level) -> Densities:
        return densities if level == self._level else lowered(densities, level)
