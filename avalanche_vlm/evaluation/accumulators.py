"""Accumulators over samples, as torchmetrics metrics: their states say how they reduce over processes.

What is computed of them are pure functions elsewhere; ``compute`` gathers the samples of all processes first, where
there are several.
"""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics import Metric

from avalanche_vlm._host import is_known, known_as, on_host, rows_of_all, to_device
from avalanche_vlm._ranks import reads_apart
from avalanche_vlm.compat.modules import RowsMetric
from avalanche_vlm.evaluation.rightness import refuse_broken


class AccuracyCounts(Metric):
    """Right answers, which may be so in part, and answers. States: ``right``, ``broken`` (answers that are none) and
    ``total``, all summed over processes.

    >>> counts = AccuracyCounts()
    >>> counts.update(torch.tensor([True, False, True, True]))
    >>> counts.compute()
    0.75
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    right: torch.Tensor
    broken: torch.Tensor
    total: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"distributed_available_fn": reads_apart, **options})
        self.add_state("right", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("broken", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, right: torch.Tensor) -> None:
        """Take in more answers.

        :param right: how right each was ``[B]``, in [0, 1] or bool; NaN for what is no answer.
        """
        broken = right.isnan()
        self.right += right.masked_fill(broken, 0).sum(dtype=torch.float64).to(self.right.device)
        self.broken += broken.sum().to(self.broken.device)
        self.total += right.numel()

    def compute(self) -> float:
        """Share of right answers, in [0, 1]; NaN without any.

        :raises NotFinite: if some are no answers.
        """
        # All numbers in one tensor, so that an accelerator is waited for once; doubles hold counts exactly.
        right, broken, total = torch.stack([of.double() for of in (self.right, self.broken, self.total)]).tolist()
        refuse_broken(int(broken), int(total))
        return right / total if total else float("nan")


class ClassCounts(RowsMetric):
    """Right answers, which may be so in part, and answers of every class. States: ``right`` and ``total``, both
    ``[classes]`` and summed over processes.

    :param classes: number of classes, of which labels are the positions.
    :param options: options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    >>> counts = ClassCounts(3)
    >>> counts.update(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]))
    >>> counts.compute()
    (tensor([1., 0., 1.], dtype=torch.float64), tensor([2, 0, 1]))
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    right: torch.Tensor
    total: torch.Tensor

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(**{"distributed_available_fn": reads_apart, **options})
        self.add_state("right", torch.zeros(classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, right: torch.Tensor, y: torch.Tensor) -> None:
        """Take in more answers.

        :param right: how right each was ``[B]``, in [0, 1] or bool.
        :param y: class ids ``[B]`` of what was asked about, below the number of classes.
        """
        y = to_device(y, self.right.device)
        self.right.index_add_(0, y, right.to(self.right))
        self.total.index_add_(0, y, torch.ones_like(y))

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Right answers and answers, each ``[classes]``."""
        return self.right, self.total


class SampleColumns(RowsMetric):
    """Columns with a row per sample, such as features and ids. States: one per column, concatenated over processes.

    :param names: names of the columns, which become attributes.
    :param options: options of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    >>> columns = SampleColumns("score", "label")
    >>> columns.update(torch.tensor([0.5]), torch.tensor([3]))
    >>> columns.update(torch.tensor([1.0]), torch.tensor([4]))
    >>> columns.compute()
    (tensor([0.5000, 1.0000]), tensor([3, 4]))
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(**{"distributed_available_fn": reads_apart, **options})
        self.names = names
        self._known: list[torch.Tensor | None] = []
        """Of every column that was computed the values, where the host knows them of a device's."""
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, *columns: torch.Tensor) -> None:
        """Take in more samples.

        :param columns: the columns in the order of their names, each ``[B, ...]``.
        """
        for name, column in zip(self.names, columns, strict=True):
            getattr(self, name).append(column)

    def compute(self) -> tuple[torch.Tensor, ...]:
        """The columns ``[N, ...]`` of all samples, in the order of their names. Of what the host knows of every batch
        it knows the whole, too."""
        columns = [getattr(self, name) for name in self.names]  # in one already where processes have gathered them
        found = tuple(of if isinstance(of, torch.Tensor) else rows_of_all(of) for of in columns)
        self._known = [on_host(of) if of.device.type != "cpu" and is_known(of) else None for of in found]
        return found

    def given(self, computed: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        pairs = zip(computed, self._known, strict=True)
        return tuple(of if values is None else known_as(of, values) for of, values in pairs)

    @property
    def filled(self) -> bool:
        """Whether any process took in samples; of processes that read together all have to ask."""
        return any(self._of_processes(len(getattr(self, self.names[0])) > 0))

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the samples of all processes; torchmetrics calls it before ``compute``. A process without a sample
        takes part with columns of the same kind as the others', which a list without a tensor does not tell."""
        own = [getattr(self, name) for name in self.names]
        kinds = self._of_processes([(of[0].dtype, of[0].shape[1:]) for of in own if len(of)])
        if len(own[0]) == 0 and (kind := next(filter(None, kinds), None)):
            for name, (dtype, shape) in zip(self.names, kind, strict=True):
                setattr(self, name, [torch.empty(0, *shape, dtype=dtype, device=self.device)])
        super().sync(*args, **options)

    def _of_processes(self, value: Any) -> list[Any]:
        """What every process that reads with this one says; its own word where it is alone."""
        if not (self.sync_on_compute and reads_apart()):
            return [value]
        found: list[Any] = [None] * torch.distributed.get_world_size(self.process_group)
        torch.distributed.all_gather_object(found, value, group=self.process_group)
        return found


def share_of_process(n: int) -> range:
    """Which of ``n`` samples this process reads where several read a set together; all of them where it is alone.

    :param n: number of samples.

    >>> share_of_process(3)
    range(0, 3)
    """
    if not reads_apart():
        return range(n)
    return range(torch.distributed.get_rank(), n, torch.distributed.get_world_size())
