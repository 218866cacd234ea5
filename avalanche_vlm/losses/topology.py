"""Topology preservation and momentum contrast with a queue: CTP's two losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from avalanche_vlm.losses.identity import alike
from avalanche_vlm.losses.similarity import intra_modal, similarity_distillation, two_way


def topology_preservation(
    student_images: torch.Tensor,
    student_texts: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
    temperature: float = 0.07,
) -> torch.Tensor:
    """CTP's topology preservation (Zhu et al., arXiv 2308.07146): who is near whom in a batch stays as it was,

    ``(KL_i2t + KL_t2i) / 2 + (KL_i2i + KL_t2t) / 2``,

    each ``KL(teacher || student)`` of the softmaxed rows of a similarity matrix and averaged over its rows; within a
    modality a sample is not compared with itself. The features may rotate freely as long as both towers rotate alike.
    The authors' code masks with -1000 before dividing by the temperature, which is 0 after the softmax like our -inf.

    :param student_images: image features ``[B, D]``; normalised here, like the others.
    :param student_texts: ``[B, D]``, row b the text of image b.
    :param teacher_images: ``[B, D']`` of the previous model; no gradient flows into it.
    :param teacher_texts: ``[B, D']`` of the previous model; no gradient flows into it.
    :param temperature: positive; divides the cosines.
    :return: scalar, at least 0; it and its gradient are 0 where the student equals the teacher.

    >>> images, texts = torch.eye(3), torch.eye(3).roll(1, 0)
    >>> turned = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    >>> topology_preservation(images @ turned, texts @ turned, images, texts).abs().item() < 1e-6
    True
    >>> round(topology_preservation(images, images, images, texts, temperature=1.0).item(), 4)
    0.3642
    """
    (i, t), (i0, t0) = (
        [F.normalize(x, dim=1) for x in pair]
        for pair in ((student_images, student_texts), (teacher_images, teacher_texts))
    )
    between = two_way(i @ t.T, i0 @ t0.T, temperature=temperature)
    within = [
        similarity_distillation(intra_modal(new), intra_modal(old), temperature=temperature)
        for new, old in ((i, i0), (t, t0))
    ]
    return between + sum(within) / 2


def momentum_contrast(
    images: torch.Tensor,
    texts: torch.Tensor,
    momentum_images: torch.Tensor,
    momentum_texts: torch.Tensor,
    queue_images: torch.Tensor,
    queue_texts: torch.Tensor,
    temperature: float = 0.07,
    y: torch.Tensor | None = None,
    queue_y: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of a batch against a momentum encoder's features of the batch and of a queue (He et al., arXiv
    1911.05722; across modalities Li et al., arXiv 2107.07651), as in CTP (Zhu et al., arXiv 2308.07146).

    Images look for their texts among ``[momentum_texts; queue_texts]``, texts for their images likewise; the mean of
    the two. CTP's momentum encoder takes from the current and the previous model. Its authors' queue starts with random
    vectors, which are negatives until they are overwritten; only what was pushed is used here
    (:meth:`FeatureQueue.entries`), from none to all of a queue. Their only positive is the sample's own; with ``y``
    every candidate of an equal ``y`` is one, which a queue that holds the caption of the batch again asks for.

    :param images: image features ``[B, D]``; normalised here, like the others.
    :param texts: text features ``[B, D]``, row b the text of image b.
    :param momentum_images: ``[B, D]`` of the same images; no gradient flows into it.
    :param momentum_texts: ``[B, D]`` of the same texts; no gradient flows into it.
    :param queue_images: ``[Q, D]``, Q from 0; no gradient flows into it.
    :param queue_texts: ``[Q, D]``, row q the text of image q; no gradient flows into it.
    :param temperature: positive; divides the cosines.
    :param y: ``[B]`` identity of each pair's caption; default all different.
    :param queue_y: ``[Q]`` identity of the queue's captions, given with ``y`` and only then.
    :return: scalar, the mean over the samples and directions; at least 0.
    :raises ValueError: if one of ``y`` and ``queue_y`` is missing or has not one entry a sample.

    >>> x, empty = torch.eye(2), torch.zeros(0, 2)
    >>> round(momentum_contrast(x, x, x, x, empty, empty, temperature=1.0).item(), 4)
    0.3133
    >>> round(momentum_contrast(x, x, x, x, -x, -x, temperature=1.0).item(), 4)
    0.6265
    """
    # Half precision has no thirds.
    dtype = torch.promote_types(images.dtype, torch.float32)
    positives = _positives(len(images), len(queue_images), y, queue_y).to(images.device, dtype)
    targets = positives / positives.sum(1, keepdim=True)
    losses = []
    for queries, keys, queue in ((images, momentum_texts, queue_texts), (texts, momentum_images, queue_images)):
        candidates = F.normalize(torch.cat([keys, queue.to(keys)]).detach(), dim=1)
        logits = F.normalize(queries, dim=1) @ candidates.T / temperature
        losses.append(F.cross_entropy(logits.to(dtype), targets))
    return torch.stack(losses).mean()


def _positives(b: int, q: int, y: torch.Tensor | None, queue_y: torch.Tensor | None) -> torch.Tensor:
    if y is None and queue_y is None:
        return torch.eye(b, b + q, dtype=torch.bool)
    if y is None or queue_y is None or len(y) != b or len(queue_y) != q:
        got = ["none" if ids is None else str(len(ids)) for ids in (y, queue_y)]
        raise ValueError(
            f"momentum contrast needs y and queue_y, or neither: one for each of {b} pairs and {q} queued ones, "
            f"got {got[0]} and {got[1]}"
        )
    return alike(y, torch.cat([y, queue_y.to(y)]))


class FeatureQueue:
    """The latest features that were pushed, with the identities of their captions: a ring buffer.

    :param size: how many it holds, at least 1.
    :param dim: width of a feature.
    :param device: where it keeps them.
    :param dtype: how it keeps them.

    >>> queue = FeatureQueue(3, 1)
    >>> for step in range(2):
    ...     queue.push(torch.tensor([[2.0 * step], [2.0 * step + 1]]), torch.tensor([2 * step, 2 * step + 1]))
    >>> features, ids = queue.entries()
    >>> features.flatten().tolist(), ids.tolist(), len(queue), queue.nbytes
    ([1.0, 2.0, 3.0], [1, 2, 3], 3, 36)
    """

    def __init__(
        self, size: int, dim: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        if size < 1 or dim < 1:
            raise ValueError(f"a feature queue needs a size and a width of at least 1, got {size} and {dim}")
        self.features = torch.zeros(size, dim, device=device, dtype=dtype)
        self.ids = torch.zeros(size, dtype=torch.int64, device=device)
        self.filled = 0
        self._next = 0

    def __len__(self) -> int:
        return self.filled

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, filled or not."""
        return self.features.nbytes + self.ids.nbytes

    def to(self, device: torch.device | str) -> FeatureQueue:
        """Keep everything on another device from now on.

        :param device: the new device.
        :return: the queue itself.
        """
        self.features, self.ids = self.features.to(device), self.ids.to(device)
        return self

    def state_dict(self) -> dict[str, torch.Tensor | int]:
        """What was pushed, and where the next feature goes; the tensors are not copied."""
        return {"features": self.features, "ids": self.ids, "filled": self.filled, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a queue of this size and width.

        :param state: what :meth:`state_dict` gave.
        :raises ValueError: if it lacks an entry, or is of a queue of another size, width or type.
        """
        for name, now in (("features", self.features), ("ids", self.ids)):
            found = state.get(name)
            if not isinstance(found, torch.Tensor) or found.shape != now.shape or found.dtype != now.dtype:
                got = f"{found.dtype} {list(found.shape)}" if isinstance(found, torch.Tensor) else repr(found)
                raise ValueError(f"this queue takes {now.dtype} {list(now.shape)} as its {name}, got {got}")
        for name, limit in (("filled", len(self.ids)), ("next", len(self.ids) - 1)):
            if not isinstance(state.get(name), int) or not 0 <= state[name] <= limit:
                raise ValueError(f"this queue takes 0 to {limit} as {name!r}, got {state.get(name)!r}")
        self.features.copy_(state["features"])
        self.ids.copy_(state["ids"])
        self.filled, self._next = state["filled"], state["next"]

    @torch.no_grad()
    def push(self, features: torch.Tensor, ids: torch.Tensor) -> None:
        """Put in features, the oldest making way; of more than fit, the last stay.

        :param features: ``[B, D]``; cut from the graph and copied.
        :param ids: whole numbers ``[B]``, one of each feature.
        :raises ValueError: if the shapes do not fit each other or the queue.
        """
        size, dim = self.features.shape
        if features.dim() != 2 or features.shape[1] != dim or ids.shape != features.shape[:1]:
            raise ValueError(
                f"this queue takes features [B, {dim}] with ids [B], got {list(features.shape)} and {list(ids.shape)}"
            )
        features, ids = features[-size:], ids[-size:]
        places = (self._next + torch.arange(len(ids), device=self.ids.device)) % size
        self.features[places] = features.to(self.features)
        self.ids[places] = ids.to(self.ids)
        self._next = (self._next + len(ids)) % size
        self.filled = min(self.filled + len(ids), size)

    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of what was pushed, oldest first: features ``[Q, D]`` and ids ``[Q]``, Q from 0 to the size."""
        order = (self._next - self.filled + torch.arange(self.filled, device=self.ids.device)) % len(self.ids)
        return self.features[order], self.ids[order]
