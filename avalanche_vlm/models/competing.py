"""Which classes of a label space compete for a sample, in training and at test."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.experiences import classes_of, task_labels_of
from avalanche_vlm.benchmarks.label_space import LabelSpace, TrainClasses
from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import DataWarning, InputError

MASKED = -1e4
"""Logit of a class that does not compete: finite, so that no loss of a stock plugin turns it into NaN."""

ALL_CLASSES = object()
"""In the place of task labels: there are none."""

_LABELS = "task labels are one whole number, or one for each sample"

_NOT_TOLD = (
    "experience {} has classes that are not trained yet under a task label that is: under the label space 'seen' they "
    "do not compete, so their accuracy is 0 whatever the model knows, and transfer and zero-shot degradation mean "
    "nothing; benchmarks.from_avalanche(...) gives every experience a task label of its own"
)


class CompetingClasses(ResizesOnLoad):
    """The classes that compete for a sample.

    *In training* no class competes that no experience has brought yet. With ``in_training="current"`` those compete
    that experiences with the task labels of the batch have brought: the current experience's, and with replay those of
    the replayed samples' tasks besides. With ``"seen"`` all compete that were met so far. Under the label space
    ``"task"`` each sample has the classes of its own task, whatever ``in_training`` is.

    *At test* the label space decides. ``"task"``: the classes of the sample's task. ``"union"``: all. ``"seen"``: those
    that were trained, and for a sample whose task was never trained that task's own besides, so that its accuracy is
    defined; all, while nothing is trained and no task label is given.

    Which classes these are is known to the host, whatever device the model is on, so that a step need not wait for the
    device to learn the shape of its logits. What is saved are ids of classes.

    :param space: the label space; None has no classes.
    :param in_training: which classes compete in training.
    """

    def __init__(self, space: LabelSpace | None = None, in_training: TrainClasses = "current") -> None:
        super().__init__()
        self.visible = "union" if space is None else space.visible
        self.in_training: TrainClasses = in_training
        tasks, classes = ([], 0) if space is None else (space.tasks, len(space))
        in_task = torch.zeros(len(tasks), classes, dtype=torch.bool)
        for task, of_task in enumerate(tasks):
            in_task[task, list(of_task)] = True
        self._warned = False
        self._sampled: tuple[torch.Tensor, torch.Tensor] | None = None
        self.in_task = in_task
        self.met = torch.zeros_like(in_task)

    @property
    def seen(self) -> torch.Tensor:
        """Bool ``[classes]``: the classes that training has met so far; on the CPU."""
        return self.met.any(0)

    def of(self, task_labels: Any) -> torch.Tensor:
        """The classes that compete in the mode that the model is in: bool ``[classes]``, or ``[B, classes]`` where
        samples differ; on the CPU.

        :param task_labels: int or ``[B]``, or :data:`ALL_CLASSES` where there are none. A device that they are on is
            waited for, unless it was the strategy that has moved them there.
        :raises InputError: under the label space ``"task"``, for a task label that the label space does not have.
        """
        found = self.while_training(task_labels) if self.training else self.at_test(task_labels)
        return found if self._sampled is None else found & self._sampled[0]

    @contextmanager
    def sampled(self, kept: torch.Tensor, added: torch.Tensor) -> Iterator[None]:
        """Within a block no other classes compete than these, and something is added to their logits: for the forward
        pass of a training step alone.

        :param kept: which classes may compete, bool ``[classes]``, on the CPU.
        :param added: what is added to the logits ``[classes]``, on the CPU.
        """
        try:
            self._sampled = kept, added
            yield
        finally:
            self._sampled = None

    def weighed(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Logits with what :meth:`sampled` adds to them; without it as they are.

        :param logits: logits ``[B, n]`` of these classes.
        :param classes: ids of the classes ``[n]``.
        """
        if self._sampled is None:
            return logits
        return logits + to_device(self._sampled[1][on_host(classes)], logits.device)

    @contextmanager
    def as_in_training(self) -> Iterator[None]:
        """Within a block the classes compete that do in training, while the rest of the model may be in eval mode: for
        what a method measures on its training data."""
        mode = self.training
        try:
            self.train()
            yield
        finally:
            self.train(mode)

    def while_training(self, task_labels: Any) -> torch.Tensor:
        """The classes that compete in training, in whichever mode the model is: :meth:`of` has the parameters.

        :param task_labels: int or ``[B]``, or :data:`ALL_CLASSES` where there are none.
        """
        labels, rows = self._labels(task_labels)
        if labels is None or (self.in_training == "seen" and self.visible != "task"):
            return self._seen_or_all()
        own = self._rows(self.met, rows)
        # A task that no experience brought, in a loop of the user's own: what the label space says of it.
        own = torch.where(own.any(1, keepdim=True), own, self._rows(self.in_task, rows))
        if self.visible == "task":
            return own[labels]
        of_batch = own[labels.unique()].any(0)
        return of_batch if bool(of_batch.any()) else self._seen_or_all()

    def at_test(self, task_labels: Any) -> torch.Tensor:
        """The classes that compete at test, in whichever mode the model is: :meth:`of` has the parameters.

        :param task_labels: int or ``[B]``, or :data:`ALL_CLASSES` where there are none.
        """
        labels, rows = self._labels(task_labels)
        if self.visible == "union" or (self.visible == "task" and labels is None):
            return torch.ones_like(self.seen)
        if self.visible == "task":
            return self.in_task[labels]
        if labels is None:
            return self._seen_or_all()
        untrained = self._rows(self.in_task, rows) & ~self._rows(self.met, rows).any(1, keepdim=True)
        own = untrained[labels]
        return self.seen | own if bool(own.any()) else self._seen_or_all()

    def meet(self, experience: Any) -> None:
        """An experience starts to be trained, or evaluated: of an evaluation nothing is kept.

        Warns once (:class:`~avalanche_vlm.errors.DataWarning`) where samples of the evaluation can only be wrong: under
        the label space ``"seen"``, for classes to come whose task label was trained already, as in stock streams that
        have the label 0 throughout.

        :param experience: its classes, and the task labels under which training meets them.
        :raises InputError: if a class of it is beyond the label space.
        """
        classes = classes_of(experience)
        if classes[-1] >= self.met.shape[1]:
            raise InputError(
                f"experience {experience.current_experience} has class id {classes[-1]}, but the label space names "
                f"only {self.met.shape[1]} classes"
            )
        if self.training:
            labels = task_labels_of(experience)
            self.met = self._rows(self.met, max(labels) + 1)
            for label, of_label in _by_label(experience, labels, classes).items():
                self.met[label, of_label] = True
        elif self.visible == "seen" and not self._warned:
            labels = task_labels_of(experience)
            trained = self._rows(self.met, max(labels) + 1)[labels].any(1)
            if bool(trained.all()) and not bool(self.seen[classes].all()):
                self._warned = True
                warnings.warn(_NOT_TOLD.format(experience.current_experience), DataWarning, stacklevel=2)

    def grown(self, space: LabelSpace) -> CompetingClasses:
        """The classes that compete under a label space that goes on where this one's ends: those that were met stay so.

        :param space: label space with the same classes under the same ids, and perhaps others behind.
        :return: the classes that compete there, in the same mode.
        """
        found = CompetingClasses(space, self.in_training).train(self.training)
        met = torch.nn.functional.pad(self.met, (0, len(space) - self.met.shape[1]))
        found.met = found._rows(met, len(found.in_task))
        return found

    def _labels(self, task_labels: Any) -> tuple[torch.Tensor | None, int]:
        """One label where all samples share it, ``[B]`` otherwise, and how many rows a table needs for them; None and 0
        where there are none, as for a batch of no samples."""
        if task_labels is ALL_CLASSES:
            return None, 0
        try:
            labels = on_host(torch.as_tensor(task_labels))
        except (TypeError, ValueError) as error:
            raise InputError(f"{_LABELS}, not {reprlib.repr(task_labels)}") from error
        if labels.numel() == 0:
            return None, 0
        if labels.ndim > 1 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
            kind = str(labels.dtype).removeprefix("torch.")
            raise InputError(f"{_LABELS}, not {kind} {list(labels.shape)}")
        least, largest = (int(label) for label in labels.aminmax())
        if least < 0:
            raise InputError(f"there is no task label {least}: task labels are numbers from 0 on")
        if self.visible == "task" and largest >= len(self.in_task):
            raise InputError(f"there is no task label {largest}: the label space has {len(self.in_task)} tasks")
        return labels.flatten()[0] if least == largest else labels, largest + 1

    def _rows(self, table: torch.Tensor, rows: int = 0) -> torch.Tensor:
        """A table of classes by task label with a row for each label that is asked for or was met: a stock benchmark
        may have more task labels than its label space has tasks. What is asked for is remembered nowhere."""
        missing = max(rows, len(self.met)) - len(table)
        return torch.cat([table, table.new_zeros(missing, table.shape[1])]) if missing > 0 else table

    def _seen_or_all(self) -> torch.Tensor:
        seen = self.seen
        return seen if bool(seen.any()) else torch.ones_like(seen)

    def get_extra_state(self) -> dict[str, Any]:
        """The ids of the classes met so far by task label, as values that JSON has; torch asks for it."""
        met = [row.nonzero()[:, 0].tolist() for row in self.met]
        return {"classes": self.met.shape[1], "met": met, "in_training": self.in_training}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it. That of another label space says nothing here.

        An earlier state (``seen``) has the classes that were met without their task labels: a task is taken for trained
        if all its classes are among them, and a class that is in no such task for one of every task that has it.

        :param state: what :meth:`get_extra_state` gave.
        :raises InputError: for a state that says of no class whether it was met.
        """
        if state["classes"] != self.met.shape[1]:
            return
        if "met" not in state and "seen" not in state:
            raise InputError("the state of the model does not say which classes training has met")
        by_label = state["met"] if "met" in state else [state["seen"]]
        met = torch.zeros(len(by_label), state["classes"], dtype=torch.bool)
        for label, ids in enumerate(by_label):
            met[label, ids] = True
        if "met" not in state:
            whole = self.in_task & ~(self.in_task & ~met).any(1, keepdim=True)
            met = whole | (self.in_task & met & ~whole.any(0))
        self.met = self._rows(met, len(self.in_task))
        self.in_training = state.get("in_training", self.in_training)


def _by_label(experience: Any, labels: list[int], classes: list[int]) -> dict[int, list[int]]:
    """The classes that an experience brings under each of its task labels."""
    if len(labels) == 1:
        return {labels[0]: classes}
    found: dict[int, set[int]] = {label: set() for label in labels}
    data = experience.dataset
    for y, label in zip(data.targets, data.targets_task_labels, strict=True):
        found[int(label)].add(int(y))
    return {label: sorted(of_label) for label, of_label in found.items()}
