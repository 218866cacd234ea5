"""LADA's head: memory units of every class, beside its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.trained.base import LearnedClassesHead


class LabelSpecificHead(LearnedClassesHead):
    """Text logits plus, for classes learned, how near an image lies to the class's memory units (LADA, Luo et al.,
    arXiv 2505.23271, section 3).

    The units ``W_c`` of class c, ``[n_c, D]``, give an image with the unit-length feature f the logit

    ::

        (units / n_c) * sum over the rows of exp(-beta * (1 - W_c f))

    which is added to the text's with the weight alpha. The factor in front is 1 in the paper, where every class has
    equally many units; here a class of few samples has fewer, and one that comes again has more.

    Only the units of the present task train, and the texts of its classes; those of older classes are what was kept
    when their task ended. In the loss all learned classes compete, and no others. At prediction this head answers among
    them where the zero-shot answer is one of them, and where it is not, the zero-shot logits stand, bit for bit. Every
    sample is answered for itself.

    Differs from the authors' code, which has this gate as an option: by default it asks for the best of the kept texts
    of learned classes and the plain ones of all others. Nothing in the loss ties the two together, and what texts gain
    on each other in training they can lose to those of classes that no task has seen.

    :param units: memory units per class, at least 1.
    :param alpha: weight of the units' logits.
    :param beta: sharpness, more than 0.
    :param scale: factor of cosines, the model's own by custom.
    :param bias: number added to every logit, SigLIP's.
    """

    owners: torch.Tensor

    def __init__(
        self, units: int = 16, alpha: float = 1.0, beta: float = 1.0, *, scale: float = 100.0, bias: float = 0.0
    ) -> None:
        super().__init__(scale, bias)
        self.width = whole(units, 1, "the number of memory units per class")
        self.alpha, self.beta = alpha, beta
        self.units = nn.ParameterList()
        """One ``[n, D]`` per task."""
        self.register_buffer("owners", torch.zeros(0, dtype=torch.long))
        """The class of each unit, through all tasks."""

    def begin(self, units: torch.Tensor, owners: torch.Tensor) -> None:
        """Start a task; one that did not come to its end is forgotten.

        :param units: initial ``[n, D]``.
        :param owners: their classes, int64 ``[n]``.
        """
        if self.open:
            self.owners = self.owners[: len(self.owners) - len(self.units[-1])]
            self.units = nn.ParameterList(list(self.units)[:-1])
        self.units.append(nn.Parameter(units.float().clone()))
        self.owners = torch.cat([self.owners.to(owners.device), owners])
        self.open = True

    def seal(self, classes: torch.Tensor, texts: torch.Tensor) -> None:
        """End the task: its units freeze, and its texts are kept. See
        :meth:`~avalanche_vlm.models.heads.trained.base.LearnedClassesHead.keep`."""
        self.units[-1].requires_grad_(False)
        self.units[-1].grad = None  # an optimizer that has let it go would never clear it
        self.open = False
        self.keep(classes, texts)

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, C]``.

        :param features: image features of unit length ``[B, D]``.
        :param logits: logits of texts ``[B, C]``, ``MASKED`` for classes that do not compete.
        """
        if not len(self.owners):
            return logits
        answers = self.among_learned(features, logits, logits != MASKED)
        if self.training:
            return answers
        learned = self.columns(torch.bincount(self.owners), logits.shape[1]) > 0
        return torch.where(learned[logits.argmax(1)][:, None], answers, logits)

    def among_learned(self, features: torch.Tensor, logits: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, C]`` of texts and units, ``MASKED`` for classes that were not learned.

        :param features: image features of unit length ``[B, D]``.
        :param logits: logits of texts ``[B, C]``; of classes whose texts are kept they are not looked at.
        :param competes: bool ``[B, C]``.
        """
        classes = logits.shape[1]
        counts = self.columns(torch.bincount(self.owners), classes)
        learned = counts > 0
        kept = self.columns(self.known, classes)
        if self.open:  # a class that comes again has new texts, which train
            current = self.owners[len(self.owners) - len(self.units[-1]) :]
            kept = kept.index_fill(0, current, False)
        # Logits reach 100 and their differences decide: half precision would round them away.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            texts = logits
            if self.texts.numel():
                own = self.cosine_logits(features, self.texts)
                own = torch.cat([own, own.new_zeros(len(own), classes - own.shape[1])], 1)
                texts = torch.where(kept, own, logits)
            near = torch.exp(-self.beta * (1 - features @ torch.cat(list(self.units)).T))
            near = near.new_zeros(len(near), classes).index_add(1, self.owners, near)
            added = self.alpha * self.width * near / counts.clamp_min(1)
        return torch.where(learned & competes, texts + added, MASKED)

    def extend_for(self, state: Mapping[str, Any]) -> None:
        """Have the units of the state's tasks."""
        count = sum(name.startswith("units.") for name in state)
        parts = [state[f"units.{i}"] for i in range(count)]  # a file may have them in any order
        empty = (torch.empty_like(part, device=self.owners.device) for part in parts)
        self.units = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in empty)
