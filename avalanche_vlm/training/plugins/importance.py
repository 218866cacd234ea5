"""Weights that past tasks need move less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, get_args

import torch
from torch.utils.data import Subset

from avalanche_vlm._ranks import alone, together
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.fisher import FisherKind, accumulate, add_squared_gradients, fisher_losses
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.training.data import labelled
from avalanche_vlm.training.penalties import add_penalty
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import autocast_of, make_room
from avalanche_vlm.weights.average import State


class FisherPenaltyPlugin(VLMPlugin, supports_distributed=True):
    """EWC (Kirkpatrick et al., arXiv 1612.00796): add ``weight / 2 * sum F (theta - anchor)^2``, where the anchor is
    where the last task ended and F the diagonal Fisher information of all tasks so far.

    One Fisher is kept and not one per task, and it fades by ``decay`` (online EWC, Schwarz et al., arXiv 1805.06370).
    After every task F is estimated from ``samples`` of its data, in eval mode: with labels that the model draws
    (``"true"``), those of the data (``"empirical"``) or its likeliest (``"predicted"``), see
    :mod:`avalanche_vlm.losses.fisher`.

    On image-text streams the likelihood is that of an image's text among the texts of ``batch_size`` pairs, equal texts
    counted once, and so depends on how many these are.

    The penalty takes part in a step by :func:`~avalanche_vlm.training.penalties.add_penalty`. Costs two copies of what
    trains, and after every task one backward pass per sample.

    :param weight: weight of the penalty, at least 0.
    :param kind: labels that the Fisher is estimated with, ``"true"``, ``"empirical"`` or ``"predicted"``.
    :param samples: samples of every experience that it is estimated from, at least 1.
    :param decay: what the earlier Fisher is multiplied by at the end of a task, in [0, 1].
    :param batch_size: samples per forward pass; on image-text streams also what a text is told apart from.
    :param seed: seed of the choice of samples and of the drawn labels, 0 or more.
    :raises InputError: for a setting out of its range.
    """

    states: ClassVar = {"fisher": KEPT, "anchor": KEPT, "_draws": WORKING}
    cannot: ClassVar = {
        "fp16": "it takes gradients by itself, which are rounded to zero there unless the loss is scaled"
    }

    def __init__(
        self,
        weight: float = 1.0,
        kind: FisherKind = "true",
        samples: int = 128,
        decay: float = 1.0,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in get_args(FisherKind):
            raise InputError(f"the Fisher information is {', '.join(get_args(FisherKind))}, not {kind!r}")
        if not weight >= 0:
            raise InputError(f"the weight of the penalty is 0 or more, not {weight}")
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of the earlier Fisher information lies in [0, 1], not {decay}")
        self.weight, self.kind, self.decay = weight, kind, decay
        self.samples, self.batch_size = whole(samples, 1, "samples"), whole(batch_size, 1, "batch_size")
        self.fisher: State = {}
        self.anchor: State = {}
        self._draws = Draws(seed)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        add_penalty(strategy, self.anchor, self.fisher, self.weight / 2)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        model = model_of(strategy)
        trainable = model.trainable_parameters()
        make_room(strategy)
        # Everything in place and tensor by tensor: an optimizer may keep its moments.
        new = {name: torch.zeros_like(weight) for name, weight in trainable.items()}
        mode, taken = model.training, 0
        model.eval()
        try:
            ranks = together()
            batches, generator = self._chosen(strategy)  # which several processes read in shares
            with alone():  # a gradient a sample, which is not averaged
                for losses in self._losses(strategy, batches, generator):
                    own = losses if ranks is None else losses[ranks.share(len(losses))]
                    add_squared_gradients(new, own, trainable)
                    taken += len(losses)
        finally:
            model.train(mode)
        if ranks is not None:
            new = {name: ranks.sum(squares) for name, squares in new.items()}
        for name in self.fisher.keys() - new.keys():
            self.fisher[name] *= self.decay
        for name, weight in trainable.items():
            before = {name: self.fisher[name]} if name in self.fisher else {}
            self.fisher |= accumulate(before, {name: new.pop(name) / taken}, self.decay)
            self.anchor[name] = weight.detach().clone()

    def _chosen(self, strategy: Strategy) -> tuple[Iterator[Any], torch.Generator]:
        """The samples that are looked at, batch by batch, and what else is drawn for them."""
        data = strategy.experience.dataset.eval()
        generator = self._draws.next()
        chosen = torch.randperm(len(data), generator=generator)[: self.samples].tolist()
        return iter(ordered_batches(Subset(data, chosen), self.batch_size)), generator

    def _losses(self, strategy: Strategy, batches: Iterator[Any], generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The negative log-likelihood of every sample ``[B]``, batch by batch, with their graph."""
        for batch in batches:
            x, y, task_labels = labelled(batch)
            x, y, task_labels = x.to(strategy.device), y.to(strategy.device), task_labels.to(strategy.device)
            with autocast_of(strategy), model_of(strategy).competing.as_in_training():
                logits, y = _likelihood(model_of(strategy), x, y, task_labels)
            yield fisher_losses(logits, y, self.kind, generator)


def _likelihood(
    model: VLM, x: torch.Tensor | ImageText, y: torch.Tensor, task_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[B, N]`` and which of them is right ``[B]``."""
    if not isinstance(x, ImageText):
        return model(x, task_labels), y
    distinct, own = torch.unique(x.tokens, dim=0, return_inverse=True)
    return model.similarity(model.encode_image(x.image), model.encode_text(distinct, padding=x.padding)), own
