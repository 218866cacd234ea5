"""What a forward pass has encoded, for whoever needs it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from avalanche_vlm.benchmarks.padding import Padding


@dataclass(frozen=True, slots=True)
class ForwardFeatures:
    """Unit-length features of one forward pass, with their graph.

    :param images: image features ``[B, D]``.
    :param texts: ``[N, D]``: of a batch of pairs, of its N distinct captions; of images, of the N classes that compete
        (None where every known task's logits were asked for).
    :param classes: int64 ``[N]``, these classes' ids in ascending order; None for pairs.
    :param tokens: ``[N, L]``, the captions; None for classes.
    :param text_of_image: int64 ``[B]``, which caption belongs to each image; None for classes.
    :param padding: the captions' padding; None for classes, or if nobody has read it.
    :param rows: which of the batch's images these are, where a routed model answers a batch in several parts; None for
        all of them.
    """

    images: torch.Tensor
    texts: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    text_of_image: torch.Tensor | None = None
    padding: Padding | None = None
    rows: Any = None
