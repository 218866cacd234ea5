"""Heads that answer from what was kept of the classes, in the place of their prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.analytic.base import widened


class NearestMeanHead(ResizesOnLoad):
    """The nearest mean of exemplars (iCaRL, Rebuffi et al., arXiv 1611.07725, section 2.1), as a
    :attr:`~avalanche_vlm.models.VLM.class_head`.

    iCaRL knows no classes but those it has exemplars of. A VLM does, so a sample is first answered by the zero-shot
    logits: if the best class is one with a mean, the nearest mean decides among such classes, and otherwise that
    answer stands. Where all competing classes have a mean, this is iCaRL's classifier. Every sample is answered for
    itself.

    :param scale: factor of the cosines; the model's own makes logits comparable to the zero-shot ones.
    """

    means: torch.Tensor
    known: torch.Tensor

    def __init__(self, scale: float = 100.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("means", torch.zeros(0, 0))
        self.register_buffer("known", torch.zeros(0, dtype=torch.bool))

    @torch.no_grad()
    def fit(self, features: torch.Tensor, y: torch.Tensor, classes: int) -> None:
        """Take new means in the place of the old ones.

        :param features: unit-length features of the exemplars ``[N, D]``.
        :param y: their class ids ``[N]``.
        :param classes: how many there are.
        :raises InputError: if an id is not below that.
        """
        if len(y) and int(y.max()) >= classes:
            raise InputError(f"an exemplar has class id {int(y.max())}, but there are only {classes} classes")
        sums = features.new_zeros(classes, features.shape[1]).index_add_(0, y, features)
        self.means = F.normalize(sums, dim=1)
        self.known = torch.bincount(y, minlength=classes) > 0

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes]``.

        :param features: image features of unit length ``[B, D]``.
        :param logits: zero-shot ``[B, classes]``, ``MASKED`` for classes that do not compete.
        """
        if not self.means.numel():
            return logits
        # As in VLM.similarity: half precision would round the differences away that decide.
        with torch.autocast(features.device.type, enabled=False):
            nearest = self.scale * features.float() @ self.means.T
        # Asked about classes beyond those that it was fitted on, it knows none of them.
        nearest, known = widened(nearest, logits.shape[1]), widened(self.known, logits.shape[1])
        nearest = nearest.masked_fill(~known | (logits == MASKED), MASKED)
        return torch.where(known[logits.argmax(1)][:, None], nearest, logits)

    def stored(self) -> StoredBytes:
        """Bytes of the means."""
        return StoredBytes(ram=tensor_bytes([self.means, self.known]))
