"""Replay of texts without their images."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.experiences import classes_of, task_labels_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.latents import LatentMemory
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.data import experience_batches
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, is_pair_stream, model_of
from avalanche_vlm.training.strategies import autocast_of


class TextReplayPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Keep texts of past experiences where the text tower put them, without keeping a single image.

    After an experience its captions (for classes, its prompts) are stored as token ids with their features; later the
    student's features of a draw of them are pulled back by one minus the cosine. Texts are the small half of the data,
    and often the one that may be kept. The image tower is not held by it.

    :param model: the model whose text tower is held; it must train.
    :param memory: what is kept: features of the texts as latents, with the tokens.
    :param batch_size: texts per iteration, at least 1.
    :param weight: weight of the loss, 0 or more.
    :raises InputError: if the text tower is frozen, and so could not drift.
    """

    states: ClassVar = {"memory": KEPT}

    def __init__(self, model: VLM, memory: LatentMemory, *, batch_size: int = 64, weight: float = 1.0) -> None:
        super().__init__()
        if "text" in model.frozen:
            raise InputError("the text tower is frozen: its texts cannot drift, and there is nothing to replay")
        self.memory = memory
        self.batch_size = whole(batch_size, 1, "the number of replayed texts")
        if not 0 <= weight < math.inf:
            raise InputError(f"the weight of replayed texts is a number of 0 or more, not {weight}")
        self.weight = weight

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory) == 0:
            return
        old = self.memory.sample(self.batch_size)
        with autocast_of(strategy):
            features = Prompts(old["tokens"]).to(strategy.device).encode(model_of(strategy).encode_text)
        cosines = (features.float() * to_device(old["latents"], strategy.device)).sum(1)
        strategy.loss += self.weight * (1 - cosines).mean()

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        model = model_of(strategy)
        tokens, y, task_labels = _texts(strategy)
        # A text that comes again keeps the feature that it had at first: two would pull it apart.
        new = ~torch.isin(y.cpu(), self.memory.labels).to(y.device)
        tokens, y, task_labels = tokens[new], y[new], task_labels[new]
        if len(y) == 0:
            return
        # Captions are the user's texts, prompts follow from class names.
        step, captions = strategy.experience.current_experience, is_pair_stream(strategy)
        with model.evaluating():
            for part, ids, tasks in zip(tokens.split(256), y.split(256), task_labels.split(256), strict=True):
                self.memory.add(model.encode_text(part), ids, tasks, part, step=step, raw_text=captions)


def _texts(strategy: Strategy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The experience's distinct texts: tokens ``[N, L]``, class or caption ids and task labels ``[N]``."""
    model, experience = model_of(strategy), strategy.experience
    if not is_pair_stream(strategy):
        assert model.label_space is not None  # Avalanche's adaptation to a class-labelled experience has set it
        prompts = model.label_space.prompts()
        classes = classes_of(experience)
        kept = 1 if model.train_templates == "first" else None
        texts = [(text, c) for c in classes for text in prompts[c][:kept]]
        y = torch.tensor([c for _, c in texts], device=model.device)
        return model.tokenize([text for text, _ in texts]), y, torch.full_like(y, task_labels_of(experience)[0])
    found: dict[int, tuple[torch.Tensor, int]] = {}
    for x, y, task_labels in experience_batches(strategy):
        assert isinstance(x, ImageText)
        for tokens, caption, task in zip(x.tokens, y.tolist(), task_labels.tolist(), strict=True):
            found.setdefault(caption, (tokens, task))
    y = torch.tensor(list(found), device=model.device)
    return torch.stack([t for t, _ in found.values()]), y, torch.tensor([t for _, t in found.values()]).to(y)
