"""Statistics of features in place of samples."""

from __future__ import annotations

from typing import Literal

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.memory.densities import DensityKind, DensityPrecision, concatenated, draw, log_prob, moved
from avalanche_vlm.memory.density_fit import Shrinkage, check_shrinkage, fit_density
from avalanche_vlm.memory.density_levels import Level, lowered
from avalanche_vlm.memory.density_memory import DensityMemory
from avalanche_vlm.memory.packing import Json
from avalanche_vlm.memory.registry import register_memory
from avalanche_vlm.memory.rows import whole


@register_memory
class FeatureMemory(DensityMemory):
    """Densities of the features of past experiences: the implicit memory, without a single sample.

    Which features is up to the caller: image features, or the text features of captions and prompts; the memory of a
    text space is this same class fitted on text features.

    Over ``max_bytes`` all densities together step down until they fit, from what is kept alone: to half precision, then
    from full to diagonal covariances (or to half as many components, again and again, down to one), then to prototypes,
    and those to a byte per number. No density is ever dropped, and none comes back up: later experiences are fitted at
    the level reached, which ``kind``, ``precision`` and ``components`` tell, and a warning at every step down.

    =============================== ================================================================
    published use                   setting
    =============================== ================================================================
    RAPF's class Gaussians          ``kind="full", by="class"``
    S-Prompts' domain centres       ``kind="kmeans", by="task"``
    LADA's mixtures of old classes  ``kind="gmm", components=4, by="class"``
    SDC's class prototypes          ``kind="prototype", by="class"``, then :meth:`compensate`
    =============================== ================================================================

    :param kind: kind of all densities, see :class:`~avalanche_vlm.memory.densities.Densities`.
    :param by: one density for each class of an experience, or for the experience.
    :param shrinkage: how ``"full"`` covariances are shrunk, see
        :func:`~avalanche_vlm.memory.density_fit.fit_density`.
    :param components: components per density of ``"gmm"`` and ``"kmeans"``, at least 1.
    :param precision: ``"fp32"``; ``"fp16"``, which rounds to about three decimal digits, relative to each density's own
        scale; for prototypes also ``"int8"``, which rounds to two.
    :param max_bytes: bound on the bytes of all that is kept; None for no bound.
    :param seed: seed of the clustering and of :meth:`sample`, at least 0.
    :param normalize: samples come with unit length, as features of VLMs have it.
    :param spread: ``"kmeans"`` keeps a variance per centre; without, its samples are the centres.
    :raises InputError: for a bad setting.
    """

    name = "features"

    def __init__(
        self,
        kind: DensityKind = "full",
        *,
        by: Literal["class", "task"] = "class",
        shrinkage: Shrinkage = 0.1,
        components: int = 4,
        precision: DensityPrecision = "fp16",
        max_bytes: int | None = None,
        seed: int = 0,
        normalize: bool = True,
        spread: bool = True,
    ) -> None:
        check_shrinkage(shrinkage)
        if by not in ("class", "task"):
            raise InputError(f"a feature memory is kept by class or by task, not by {by!r}")
        super().__init__(Level(kind, precision, components), max_bytes, seed, spread)
        self.by: Literal["class", "task"] = by
        self.shrinkage: Shrinkage = shrinkage
        self.normalize = normalize

    def fit(self, features: torch.Tensor, y: torch.Tensor, task_labels: torch.Tensor, *, step: int = 0) -> None:
        """Add the statistics of one experience, all of its samples at once.

        A class that an earlier experience had gets a further density, told apart by its step.

        :param features: finite, ``[N, D]``, on any device.
        :param y: class ids ``[N]``.
        :param task_labels: task label of each sample ``[N]``.
        :param step: the experience that they come from.
        :raises InputError: for bad input, or if not even prototypes fit the budget; the memory is then as before.
        """
        self._check_features(features)
        if not len(features) == len(y) == len(task_labels):
            raise InputError(f"there are {len(features)} features, {len(y)} classes and {len(task_labels)} task labels")
        features, y, task_labels = features.detach().cpu(), y.cpu().long(), task_labels.cpu().long()
        groups = [y == c for c in y.unique()] if self.by == "class" else [torch.ones_like(y, dtype=torch.bool)]
        ids = self._ids_with([(_only(y[rows]), _only(task_labels[rows]), step, int(rows.sum())) for rows in groups])
        level = self._fitting_level(ids, features.shape[1], self.max_bytes)
        # Fitted at once as what they will be: better than what merging makes of more components.
        new = concatenated(
            [
                fit_density(
                    features[rows],
                    level.kind,
                    components=level.components,
                    shrinkage=self.shrinkage,
                    spread=self.spread,
                    seed=self._draws.seed,
                )
                for rows in groups
            ]
        )
        new = lowered(new, level)
        if self._densities is not None:
            new = concatenated([self._lowered(self._densities, level), new])
        self._keep(new, ids)
        self._step_to(level)

    def sample(self, n: int, among: torch.Tensor | None = None) -> Columns:
        """``n`` features, as evenly over the densities as ``n`` allows, in random order.

        :param n: features to draw, 0 or more.
        :param among: the densities to draw from, by their places ``[m]``, at least one; None for all.
        :return: ``features`` float32 ``[n, D]``, ``y`` and ``task`` int64 ``[n]``. ``y`` (``task``) is -1 where a
            density stands for several classes (task labels), as it does ``by="task"``: which of them a drawn feature
            belongs to is not known.
        :raises InputError: if the memory is empty.
        """
        n, densities = whole(n, 0, "the number of samples"), self._filled()
        generator = self._draws.next()
        places = torch.arange(len(self)) if among is None else among
        rounds = [torch.randperm(len(places), generator=generator) for _ in range(-(-n // len(places)))]
        index = places[torch.cat([torch.zeros(0, dtype=torch.long), *rounds])[:n]]
        features = draw(densities, index, generator)
        if self.normalize:
            features = torch.nn.functional.normalize(features, dim=1)
        return {"features": features, "y": self.labels[index], "task": self.task_labels[index]}

    def log_prob(self, features: torch.Tensor) -> torch.Tensor:
        """How well each feature fits each density, see :func:`~avalanche_vlm.memory.densities.log_prob`.

        :param features: ``[B, D]`` on any device.
        :return: float32 ``[B, G]`` on that device.
        :raises InputError: if the memory is empty, or has features of another dimension.
        """
        return log_prob(self._filled(), features)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """The best fit among each step's densities, sample by sample.

        :param features: ``[B, D]`` on any device.
        :return: float32 ``[B, steps]``, in ascending order of the steps.
        """
        fits = self.log_prob(features)
        return torch.stack([fits[:, (self.steps == s).to(fits.device)].amax(1) for s in self.steps.unique()], 1)

    def compensate(self, before: torch.Tensor, after: torch.Tensor, sigma: float = 0.3) -> None:
        """Move all means with the drift of current data, see :func:`~avalanche_vlm.memory.densities.moved`.

        Call it after training on an experience and before that experience is fitted.

        :param before: features of the current data by the model before training, ``[N, D]``.
        :param after: features of the same data by the model after training, ``[N, D]``.
        :param sigma: reach of a sample's drift, more than 0, in the unit of the features.
        :raises InputError: for bad input, or if the memory is empty.
        """
        densities = self._filled()
        self._check_features(before)
        self._check_features(after)
        if before.shape != after.shape:
            raise InputError(f"there are {len(before)} features before the update and {len(after)} after it")
        if not sigma > 0:
            raise InputError(f"sigma is more than 0, not {sigma}")
        self._keep(moved(densities, before, after, sigma), self._ids)

    @property
    def settings(self) -> dict[str, Json]:
        """Arguments of the constructor that make a memory that can take this one's state."""
        return {
            **self._level._asdict(),
            "by": self.by,
            "shrinkage": self.shrinkage,
            "max_bytes": self.max_bytes,
            "seed": self._draws.seed,
            "normalize": self.normalize,
            "spread": self.spread,
        }

    def _check_features(self, features: torch.Tensor) -> None:
        if features.ndim != 2 or len(features) == 0 or not features.isfinite().all():
            raise InputError(f"features are one or more rows of finite numbers, not of shape {list(features.shape)}")
        if self._densities is not None and features.shape[1] != self._densities.dim:
            raise InputError(f"features have {self._densities.dim} dimensions in this memory, not {features.shape[1]}")


def _only(values: torch.Tensor) -> int:
    """The value that all share, or -1."""
    return int(values[0]) if (values == values[0]).all() else -1
