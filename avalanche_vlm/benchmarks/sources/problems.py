"""What is done with samples that cannot be used: the first one stops everything, or each is left out and said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from avalanche_vlm.errors import InputError

if TYPE_CHECKING:  # which loads torch, and commands check what they are given without it
    from avalanche_vlm.benchmarks.passed_over import PassedOver, StandIns

OnError = Literal["raise", "skip"]


class Problems:
    """Raises on the first problem, or notes each.

    :param on_error: ``"raise"`` or ``"skip"``.
    :param passed_over: takes the images that no check has found and a run meets; by default those of a new benchmark.
    """

    def __init__(self, on_error: OnError, passed_over: PassedOver | None = None) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is raise or skip, not {on_error!r}")
        self.on_error = on_error
        self.skipped: list[str] = []
        self.notes: list[str] = []
        """What else is to be said of the data, a sentence each."""
        self._passed_over = passed_over

    @property
    def passed_over(self) -> PassedOver:
        """What takes the images that no check has found and a run meets."""
        from avalanche_vlm.benchmarks.passed_over import PassedOver

        if self._passed_over is None:
            self._passed_over = PassedOver()
        return self._passed_over

    def add(self, sentence: str) -> None:
        """One sample cannot be used."""
        if self.on_error == "raise":
            raise InputError(f"{sentence} (on_error=skip leaves it out)")
        self.skipped.append(sentence)

    def stand_ins(self, images: Any) -> StandIns | None:
        """What reads the images of a data set when they are met; None where one that cannot be read stops whoever reads
        it, and for pictures in memory.

        :param images: images of a data set.
        """
        # The type is asked first: the images themselves would make all their paths to answer.
        if self.on_error == "raise" or not (hasattr(type(images), "paths") or hasattr(images, "paths")):
            return None
        return self.passed_over.reader(images)


def unused_classes(task: str, part: str, names: Sequence[str]) -> str:
    """A sentence on classes of a task that have no images in one of its parts.

    :param task: name of the task.
    :param part: ``training`` or ``test``.
    :param names: names of the classes, one or more.

    >>> unused_classes("pets", "test", ["cat"])
    "1 class of task 'pets' without test images: 'cat'"
    """
    listed = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    what = "1 class" if len(names) == 1 else f"{len(names)} classes"
    return f"{what} of task {task!r} without {part} images: {listed}"
