"""What every reference gives, wherever it takes it from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures

Rows = torch.Tensor | slice
"""Numbers of inputs in the set that they come from, int64 ``[n]``; ``slice(None)`` for all of it, in order."""

Lifetime = Literal["always", "task", "batch"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """B images and N texts, on the model's device; one of them may be missing.

    :param images: ``[B, 3, H, W]``.
    :param texts: N of them, each once.
    :param text_of_image: int64 ``[B]``, which text each image belongs to; -1 if it is not among them, None if the two
        have nothing to do with each other.
    :param image_rows: which images of the reference's set these are; None for some that do not come again.
    :param text_rows: likewise.
    :param student_images: the student's features ``[B, D]`` with their graph, where its own forward pass has them.
    :param student_texts: likewise ``[N, D]``.
    """

    images: torch.Tensor | None = None
    texts: Prompts | None = None
    text_of_image: torch.Tensor | None = None
    image_rows: Rows | None = None
    text_rows: Rows | None = None
    student_images: torch.Tensor | None = None
    student_texts: torch.Tensor | None = None


class Reference(Protocol):
    """A source of inputs, one batch for every training iteration.

    :param lifetime: how long what it gives stays the same. ``"always"``: a set that is known from the start.
        ``"task"``: one that is made as a task starts. ``"batch"``: new images all the time, though texts may come again
        within a task. Of a set a constant teacher's features are computed once.
    """

    lifetime: Lifetime

    def start(self, strategy: Any) -> None:
        """A task starts."""

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        """Everything of a set: its images in the order of their rows, its texts likewise, in any parts."""

    def next(self, strategy: Any, forward: ForwardFeatures) -> Inputs | None:
        """The inputs of this iteration; None if there is nothing to compare.

        :param forward: what the student's own forward pass on the minibatch has encoded.
        """

    def end(self) -> None:
        """The task is over: let go of what only it needed."""

    def stored(self) -> StoredBytes:
        """Bytes of the data it keeps between tasks."""
