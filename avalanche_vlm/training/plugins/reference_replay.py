"""Replay of what the model was pretrained on, or of what stands for it."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.padding import padding_before_move
from avalanche_vlm.benchmarks.pair_pictures import pictures_at
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.state import GIVEN, KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.plugins.base import VLMPlugin, add_as_one_batch
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of


class ReferenceReplayPlugin(VLMPlugin, supports_distributed=True):
    """Train on reference pairs beside the stream, with the contrastive loss that the model was pretrained with.

    Together with exemplars this is the batch of FoMo-in-Flux (Roth et al., arXiv 2408.14471): a part of pretraining
    data, a part of the update, a part of the buffer. The parts weigh by their number of samples. There they share one
    contrastive batch; here the reference pairs have one of their own, since a stream of classes has no captions.

    :param model: the model whose tokenizer reads the captions.
    :param reference: pairs that stand for the pretraining data.
    :param batch_size: pairs per iteration, at least 1.
    :param seed: seed of their order, 0 or more.
    """

    states: ClassVar = {"reference": GIVEN, "tokens": GIVEN, "ids": GIVEN, "_passes": KEPT}

    def __init__(self, model: VLM, reference: ReferencePairs, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.reference = reference
        self.tokens = model.tokenizer(list(reference.captions))
        self.ids = reference.identities()
        self.criterion = criterion_for("pairs", model)
        self._passes = Passes(len(reference), batch_size, seed)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        indices = self._passes.next()
        images = pictures_at(self.reference, indices.tolist())
        tokens, device = self.tokens[indices], strategy.device
        padding = padding_before_move(tokens, device, None)
        pairs = ImageText(to_device(images, device), to_device(tokens, device), padding)
        with autocast_of(strategy):
            loss = self.criterion(strategy.model(pairs), to_device(self.ids[indices], device))
        add_as_one_batch(strategy, loss, len(indices))
