"""What every reference gives, wherever it takes it from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.protocol import Strategy

Numbers = torch.Tensor | slice
"""Numbers of inputs in the set that they come from, int64 ``[n]``; ``slice(None)`` for all of it, in order."""

Lifetime = Literal["always", "task", "batch"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """B images and N texts, on the model's device; one of them may be missing.

    :param images: the images ``[B, 3, H, W]``.
    :param texts: the N texts, each once.
    :param text_of_image: which text each image belongs to, int64 ``[B]``; -1 if it is not among them, None if images
        and texts have nothing to do with each other.
    :param image_rows: which images of the reference's set these are; None for images that do not come again.
    :param text_rows: which texts of the reference's set these are; None for texts that do not come again.
    :param student_images: the student's image features ``[B, D]`` with their graph, where its own forward pass has
        them.
    :param student_texts: the student's text features ``[N, D]`` with their graph, where its own forward pass has them.
    :param true_texts: which texts are true of which images, bool ``[B, N]``, where a set knows several of an image;
        None where ``text_of_image`` says it all.
    :param set_texts: all texts of the set that ``text_rows`` are numbers of, from whose features a student with a still
        text tower takes those of these; None where it encodes these.
    """

    images: torch.Tensor | None = None
    texts: Prompts | None = None
    text_of_image: torch.Tensor | None = None
    image_rows: Numbers | None = None
    text_rows: Numbers | None = None
    student_images: torch.Tensor | None = None
    student_texts: torch.Tensor | None = None
    true_texts: torch.Tensor | None = None
    set_texts: Prompts | None = None


class Reference(Protocol):
    """A source of inputs, one batch for every training iteration.

    Ours are :class:`~avalanche_vlm.memory.state.Stateful`; so is yours to be, if its training is to be resumed.

    :param lifetime: how long what it gives stays the same. ``"always"``: a set that is known from the start.
        ``"task"``: one that is made as a task starts. ``"batch"``: new images all the time, though texts may come again
        within a task. Of a set a constant teacher's features are computed once.
    """

    lifetime: Lifetime

    def start(self, strategy: Strategy) -> None:
        """A task starts."""

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        """Everything of a set: its images in the order of their rows, its texts likewise, in any parts."""

    def next(self, strategy: Strategy, forward: ForwardFeatures | None) -> Inputs | None:
        """The inputs of this iteration; None if there is nothing to compare.

        :param forward: what the student's own forward pass on the minibatch has encoded; None if there was none.
        """

    def end(self) -> None:
        """The task is over: let go of what only it needed."""

    def stored(self) -> StoredBytes:
        """Bytes of the data it keeps between tasks."""
