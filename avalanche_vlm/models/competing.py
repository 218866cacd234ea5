"""Which classes of a label space compete for a sample."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.compat import ResizesOnLoad
from avalanche_vlm.errors import InputError

MASKED = -1e4
"""Logit of a class that does not compete: finite, so that no loss of a stock plugin turns it into NaN."""

ALL_CLASSES = object()
"""In the place of task labels: every class competes."""


class CompetingClasses(ResizesOnLoad):
    """Under the label space ``"task"`` the classes of the sample's task compete, under ``"seen"`` those that were
    trained, under ``"union"`` all of them.

    Its buffers go where the model goes; what is saved are ids of classes.

    :param space: the label space; None has no classes.
    """

    in_task: torch.Tensor
    seen: torch.Tensor
    evaluated: torch.Tensor

    def __init__(self, space: LabelSpace | None = None) -> None:
        super().__init__()
        self.visible = "union" if space is None else space.visible
        tasks, classes = ([], 0) if space is None else (space.tasks, len(space))
        in_task = torch.zeros(len(tasks), classes, dtype=torch.bool)
        for task, of_task in enumerate(tasks):
            in_task[task, list(of_task)] = True
        self.register_buffer("in_task", in_task, persistent=False)
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool), persistent=False)
        self.register_buffer("evaluated", torch.zeros(classes, dtype=torch.bool), persistent=False)

    def of(self, task_labels: Any) -> torch.Tensor:
        """Bool ``[classes]``, or ``[B, classes]`` where samples of several tasks differ.

        :param task_labels: int or ``[B]``, or :data:`ALL_CLASSES`.
        :raises InputError: for a task label that the label space does not have.
        """
        if self.visible == "seen":
            return self.seen if self.training else self.seen | self.evaluated
        if self.visible == "union" or task_labels is ALL_CLASSES:
            return torch.ones_like(self.seen)
        if isinstance(task_labels, torch.Tensor) and task_labels.ndim:
            first = task_labels[0]
            task_labels = int(first) if bool((task_labels == first).all()) else task_labels
        largest = int(torch.as_tensor(task_labels).max())
        if largest >= len(self.in_task):
            raise InputError(f"there is no task label {largest}: the label space has {len(self.in_task)} tasks")
        return self.in_task[task_labels]

    def meet(self, experience: Any) -> None:
        """An experience starts to be trained, or evaluated.

        Under ``"seen"`` the classes of the experience being evaluated compete as well, so that accuracy on a task that
        is not trained yet is defined.

        :raises InputError: if a class of it is beyond the label space.
        """
        classes = torch.tensor(classes_of(experience), device=self.seen.device)
        if classes.max() >= len(self.seen):
            raise InputError(
                f"experience {experience.current_experience} has class id {classes.max().item()}, but the label "
                f"space names only {len(self.seen)} classes"
            )
        if self.training:
            self.seen[classes] = True
        self.evaluated = torch.zeros_like(self.seen).index_fill_(0, classes, True)

    def get_extra_state(self) -> dict[str, Any]:
        """The ids of the classes met so far, as values that JSON has; torch asks for it."""
        met = {name: getattr(self, name).nonzero()[:, 0].tolist() for name in ("seen", "evaluated")}
        return {"classes": len(self.seen), **met}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it. That of another label space says nothing here."""
        if state["classes"] == len(self.seen):
            for name in ("seen", "evaluated"):
                ids = torch.tensor(state[name], dtype=torch.long, device=self.seen.device)
                setattr(self, name, torch.zeros_like(self.seen).index_fill_(0, ids, True))
