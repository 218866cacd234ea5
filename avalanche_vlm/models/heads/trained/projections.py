"""PROOF's head: projections that grow with the tasks, and their fusion across the modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.analytic.gaussian import ClassSums
from avalanche_vlm.models.heads.trained.base import LearnedClassesHead
from avalanche_vlm.models.heads.trained.fusion import CrossModalFusion

_NUMBERS = 1 << 25
"""Of fused tokens that are held at a time at prediction."""


class Similarities(NamedTuple):
    """Of images with n classes, each ``[B, n]``.

    :param projected: projected images and projected texts.
    :param texts: fused images and fused texts.
    :param prototypes: fused images and fused prototypes.
    """

    projected: torch.Tensor
    texts: torch.Tensor
    prototypes: torch.Tensor


class ProjectionFusionHead(LearnedClassesHead):
    """Sums of per-task linear projections of both modalities, and self-attention over an image, the texts and
    prototypes of the classes, and learned contexts (PROOF, Zhou et al., arXiv 2305.19270, section 4).

    At prediction the three similarities of :class:`Similarities` are summed. Where the zero-shot answer is a class that
    was learned, the head answers among such classes, and where it is not, the zero-shot logits stand, bit for bit.

    Differs from the authors' code, in which fused texts and prototypes are means over the batch: every image is
    compared with its own, so that it is answered for itself. All similarities are cosines with the model's scale, so
    that the three summands weigh alike, where the code has dot products of vectors of any length. The first task's
    projections start as the identity and later ones at zero, so that a new task starts from what there is; in the code
    they are random, and with them the sum. Old text projections freeze, as the paper has it and the code does not.
    Contexts start at unit length.

    :param width: numbers per feature, at least 1.
    :param contexts: learned tokens per task, at least 0.
    :param scale: factor of cosines, the model's own by custom.
    :param bias: number added to every logit, SigLIP's.
    :param seed: seed of the initial weights, 0 or more.
    """

    def __init__(
        self, width: int, contexts: int = 3, *, scale: float = 100.0, bias: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(scale, bias)
        self.width = width
        self.length = whole(contexts, 0, "the number of contexts per task")
        self._draws = Draws(seed)
        self.image_projections, self.text_projections = nn.ModuleList(), nn.ModuleList()
        self.contexts = nn.ParameterList()
        self.fusion = CrossModalFusion(width, self._draws.next())
        self.prototypes = ClassSums("float32")
        self._of_prototypes: torch.Tensor | None = None

    def begin(self) -> None:
        """Start a task with new projections and contexts; one that did not come to its end loses its own."""
        if self.open:
            del self.image_projections[-1], self.text_projections[-1]
            self.contexts = nn.ParameterList(list(self.contexts)[:-1])
        self.open = True
        like = self.fusion.out.weight
        for projections in (self.image_projections, self.text_projections):
            new = nn.Linear(self.width, self.width, device=like.device)
            nn.init.zeros_(new.bias)
            nn.init.zeros_(new.weight) if len(projections) else nn.init.eye_(new.weight)
            projections.append(new)
        contexts = torch.randn(self.length, self.width, generator=self._draws.next()) * self.width**-0.5
        self.contexts.append(nn.Parameter(contexts.to(like)))

    def seal(self) -> None:
        """End the task: what is its own freezes, the fusion trains on."""
        self.open = False
        for part in (self.image_projections, self.text_projections, self.contexts):
            for parameter in part.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer that has let it go would never clear it

    def learn(self, features: torch.Tensor, y: torch.Tensor, classes: torch.Tensor, texts: torch.Tensor) -> None:
        """Take in a task's classes: the means of their features as prototypes, and their texts.

        :param features: image features of unit length ``[N, D]``.
        :param y: their class ids ``[N]``.
        :param classes: the ids of the texts ``[n]``.
        :param texts: text features of unit length ``[n, D]``.
        """
        self.prototypes.fit(features, y)
        self.keep(classes, texts)

    def project_images(self, features: torch.Tensor) -> torch.Tensor:
        """Unit-length sums of all projections ``[N, D]`` of image features or prototypes ``[N, D]``."""
        return _project(self.image_projections, features)

    def project_texts(self, features: torch.Tensor) -> torch.Tensor:
        """The same of text features."""
        return _project(self.text_projections, features)

    def similarities(self, features: torch.Tensor, classes: torch.Tensor) -> Similarities:
        """Scaled cosines of unit-length features ``[B, D]`` with these classes, ids ``[n]``."""
        images, texts = self.project_images(features), self.project_texts(self.texts[classes])
        prototypes = self.project_images(F.normalize(self.prototypes.means[classes], dim=1))
        tokens = torch.cat([texts, prototypes, *self.contexts])
        n = len(classes)
        fused, tokens_of_image = (F.normalize(part, dim=-1) for part in self.fusion(images, tokens, 2 * n))
        projected = self.cosine_logits(images, texts)
        return Similarities(projected, *self.cosine_logits(fused, tokens_of_image).split(n, 1))

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, C]``: in training those of fused texts, for the task loss; see :meth:`take_prototype_logits`.

        :param features: image features of unit length ``[B, D]``.
        :param logits: zero-shot ``[B, C]``, ``MASKED`` for classes that do not compete.
        :raises InputError: if a class was learned that is not among them.
        """
        learned = self.columns(self.known, logits.shape[1])
        answered = logits.new_ones(len(logits), dtype=torch.bool) if self.training else learned[logits.argmax(1)]
        # Which classes compete for whom is told with one look at the device.
        anything, competes = on_host(
            torch.cat([learned[None], (logits != MASKED) & learned & answered[:, None]])
        ).tensor_split([1])
        if not bool(anything.any()):
            return logits
        texts = torch.where(answered[:, None], MASKED, logits)
        prototypes = torch.full_like(logits, MASKED)
        # Under the label space "task" a batch may mix tasks: no image may see another task's classes as tokens.
        for of_group in _groups(competes):
            among, rows = (to_device(of, logits.device) for of in of_group)
            for part in self._parts(rows, len(among)):
                # As in VLM.similarity: half precision would round the differences away that decide.
                with torch.autocast(features.device.type, enabled=False):
                    found = self.similarities(features[part].float(), among)
                place = (part[:, None], among)
                if self.training:
                    texts = texts.index_put(place, found.texts)
                    prototypes = prototypes.index_put(place, found.prototypes)
                else:
                    texts = texts.index_put(place, found.projected + found.texts + found.prototypes)
        self._of_prototypes = prototypes if self.training else None
        return texts

    def take_prototype_logits(self) -> torch.Tensor:
        """Those of fused prototypes ``[B, C]``, of the last forward pass in training, once.

        :raises InputError: if there was none.
        """
        taken, self._of_prototypes = self._of_prototypes, None
        if taken is None:
            raise InputError("there are no logits of prototypes: the head was not asked for logits in training")
        return taken

    def _parts(self, rows: torch.Tensor, classes: int) -> tuple[torch.Tensor, ...]:
        return (rows,) if self.training else rows.split(max(1, _NUMBERS // (2 * classes * self.width)))

    def extend_for(self, state: Mapping[str, Any]) -> None:
        """Have the projections and contexts of the state's tasks."""
        tasks = sum(name.startswith("contexts.") for name in state)
        for _ in range(len(self.contexts), tasks):
            self.begin()
            self.seal()
        self.image_projections = self.image_projections[:tasks]
        self.text_projections = self.text_projections[:tasks]
        self.contexts = nn.ParameterList(list(self.contexts)[:tasks])

    def get_extra_state(self) -> dict[str, Any]:
        """Whether a task is open, and how many draws were taken."""
        return {**super().get_extra_state(), "draws": self._draws.count}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it."""
        super().set_extra_state(state)
        self._draws.count = state["draws"]


def _project(projections: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    # The sum of linear maps is one linear map: a product for all tasks together.
    weight, bias = (sum(getattr(p, name) for p in projections) for name in ("weight", "bias"))
    return F.normalize(F.linear(features, weight, bias), dim=1)


def _groups(competes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Classes and rows of every distinct, not empty row of ``[B, C]``, on the CPU."""
    kinds, kind = competes.unique(dim=0, return_inverse=True)
    found = ((kinds[i].nonzero().squeeze(1), (kind == i).nonzero().squeeze(1)) for i in range(len(kinds)))
    return [(among, rows) for among, rows in found if len(among)]
