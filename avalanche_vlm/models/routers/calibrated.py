"""What all routers share: thresholds, the choice between tasks, and the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models.routers.base import Route
from avalanche_vlm.models.routers.calibration import check_share, upper_quantile

TaskParts = Mapping[str, torch.Tensor]


class CalibratedRouter(ResizesOnLoad):
    """One distance per task, and a threshold on each.

    A kind of router says what it keeps of a task (``_learn``) and how far a sample is from it
    (``_measure``): in a unit that all tasks share, and from any origin, so that negative log-likelihoods will do.
    A fifth of a task's samples are kept out of the first and calibrate the second: a distance ``d`` to the task
    becomes

        ``(d - middle) / (threshold - middle)``

    with their median as ``middle``, and as ``threshold`` the quantile below which a new sample of the task falls with
    the probability ``quantile``. So 0 is a usual sample and 1 the threshold of every task alike. Beyond all thresholds
    a sample is out of distribution.

    Among the tasks that let it in, a sample goes to the nearest by ``d`` itself, as the published routers choose. The
    calibrated distance would favour tasks with wide thresholds: on ``mtil_like``, with the tiny model's features, it
    placed 1 to 10 in a hundred samples fewer correctly, for every kind of router.

    Samples are scored one by one: nothing depends on the batch. A threshold is a promise about one task. With every
    task there is one more that may let an out-of-distribution sample in.

    :param quantile: share of a task's own samples that its threshold lets in, in (0, 1): one minus the rate of false
        positives.
    """

    middles: torch.Tensor
    thresholds: torch.Tensor

    least_samples: ClassVar[int] = 10
    """Fewest samples of a task that a router can be fitted to: a fifth of them sets its threshold."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that ``_learn`` gives. Those of all tasks are kept joined along the first dimension."""

    def __init__(self, quantile: float) -> None:
        super().__init__()
        check_share("quantile", quantile)
        self.quantile = quantile
        for name in self._names():
            self.register_buffer(name, torch.empty(0))

    def __len__(self) -> int:
        return len(self.thresholds)

    def fit(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the next task.

        :param features: unit-length features of the plain tower ``[N, D]``; a fifth of them calibrates the threshold.
        :param labels: class or caption ids ``[N]``.
        :raises InputError: if there are fewer than ten samples, or one is not finite; nothing has changed then.
        """
        if len(features) < self.least_samples:
            raise InputError(f"a router needs at least ten samples of a task, task {len(self)} has {len(features)}")
        if not bool(features.isfinite().all()):
            raise InputError(f"a router cannot learn task {len(self)}: a feature is not finite")
        with torch.inference_mode(False), torch.no_grad(), _full_precision(features):
            features, labels = features.float(), labels.to(features.device)
            # By chance: data often come in a cycle of classes, of which every fifth sample would see one.
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).to(features.device)
            held, learned = order.tensor_split([len(features) // 5])
            learned = learned.sort().values
            parts = self._learn(features[learned], labels[learned])
            middle, threshold = _middle_and_threshold(self._measure(features[held], parts)[:, 0], self.quantile)
            self._append(dict(parts) | {"middles": middle[None], "thresholds": threshold[None]})

    @torch.no_grad()
    def score(self, features: torch.Tensor) -> Route:
        """Route samples.

        :param features: unit-length features of the plain tower ``[B, D]``.
        :raises InputError: before the first fit.
        """
        measured = self._measured(features)
        distances = self._calibrated(measured)
        # A hair more: a threshold is the distance of one of the task's own samples, and on it rounding would decide.
        let_in = distances <= 1 + 1e-4
        known = let_in.any(1)
        nearest = measured.masked_fill(~let_in, torch.inf).argmin(1)
        task = torch.where(known, nearest, distances.argmin(1))
        confidence = (-distances).softmax(1).gather(1, task[:, None])[:, 0]
        return Route(task, confidence, ~known)

    @torch.no_grad()
    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Calibrated distances ``[B, T]``: 0 for a usual sample of a task, 1 at its threshold.

        :param features: ``[B, D]``, as for :meth:`score`.
        :raises InputError: before the first fit.
        """
        return self._calibrated(self._measured(features))

    @torch.no_grad()
    def calibrate(self, features: Sequence[torch.Tensor], false_positive_rate: float) -> None:
        """Set all thresholds anew, and the target of those to come.

        Of ``n`` held-out samples none but those near the threshold say where it is: the achieved rate has a standard
        deviation of about ``sqrt(rate / n)``, and a rate below ``1 / (n + 1)`` cannot be promised; the farthest sample
        is the threshold then.

        :param features: features of each task ``[n, D]``, in the order of the tasks, kept out of its fit.
        :param false_positive_rate: share of a task's own samples that may be turned away, in (0, 1).
        :raises InputError: if a task has no features, or there are those of more or fewer tasks; nothing has changed
            then.
        """
        check_share("false_positive_rate", false_positive_rate)
        if len(features) != len(self):
            raise InputError(f"the router knows {len(self)} tasks, and got held-out features of {len(features)}")
        for task, held in enumerate(features):
            if not len(held):
                raise InputError(f"task {task} has no held-out features to calibrate its threshold on")
        pairs = [
            _middle_and_threshold(self._measured(held)[:, task], 1 - false_positive_rate)
            for task, held in enumerate(features)
        ]
        self.middles, self.thresholds = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        self.quantile = 1 - false_positive_rate

    def stored(self) -> StoredBytes:
        """Bytes of what is kept of the tasks."""
        return StoredBytes(ram=tensor_bytes(self.buffers()))

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        """What is kept of a task, by the names in :attr:`parts`.

        :param features: float32 ``[N, D]``.
        :param labels: class or caption ids ``[N]``.
        """
        raise NotImplementedError

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        """Distances ``[B, T]`` in a unit that the tasks share.

        :param features: float32 ``[B, D]``.
        :param parts: the tensors kept of ``T`` tasks.
        """
        raise NotImplementedError

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return ("middles", "thresholds", *cls.parts)

    def _measured(self, features: torch.Tensor) -> torch.Tensor:
        if not len(self):
            raise InputError("a router must be fitted before it is asked")
        parts = {name: getattr(self, name) for name in self.parts}
        # A model that was cast to half precision has cast these too.
        parts = {name: part.float() if part.is_floating_point() else part for name, part in parts.items()}
        with _full_precision(features):
            return self._measure(features.float(), parts)

    def _calibrated(self, measured: torch.Tensor) -> torch.Tensor:
        return (measured - self.middles) / (self.thresholds - self.middles)

    def _append(self, parts: TaskParts) -> None:
        if len(self):
            parts = {
                name: torch.cat([getattr(self, name), part.to(self.thresholds.device)]) for name, part in parts.items()
            }
        for name, part in parts.items():
            setattr(self, name, part)

    def get_extra_state(self) -> dict[str, Any]:
        """The share that thresholds let in, which :meth:`calibrate` sets anew; torch asks for it."""
        return {"quantile": self.quantile}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it."""
        self.quantile = state["quantile"]


def _full_precision(features: torch.Tensor) -> torch.autocast:
    return torch.autocast(features.device.type, enabled=False)


def _middle_and_threshold(distances: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    middle, threshold = distances.median(), upper_quantile(distances, share)
    # Samples that are all alike have one distance; a little more is beyond the threshold then.
    return middle, torch.maximum(threshold, middle + 1e-6 * middle.abs().clamp_min(1))
