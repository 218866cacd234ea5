"""Prompts that every sample's query selects or weighs, trained on a frozen VLM."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import StoredBytes, tensor_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.query_prompts import QueryPromptPath, QueryPromptPool
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class QueryPromptPlugin(VLMPlugin):
    """Freeze the VLM, send its images through a pool of prompts, and add the pool's penalty to the loss.

    Texts keep their features. Images do not, whether a task was trained on their like or not: nothing stays out, so
    zero-shot abilities erode.

    :param model: adapted in place at construction: towers frozen, images prompted.
    :param pool: made for the model's image tower.
    :param weight: of the penalty, at least 0.
    :raises InputError: if the weight is negative, the model's images take another way already, or prompts cannot enter
        its tower.
    """

    def __init__(self, model: VLM, pool: QueryPromptPool, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"the weight of a penalty is 0 or more, not {weight}")
        if model.detour is not None:
            raise InputError(f"the model's image path is taken by {type(model.detour).__name__}: prompts need it")
        self.weight = weight
        self.path = QueryPromptPath(pool, model.tower("image")).to(model.device).train(model.training)
        model.freeze("image", "text", "scale")
        model.image_path = self.path
        self._query: torch.Tensor | None = None

    def prepare_parameters(self, strategy: Strategy) -> None:
        self.path.pool.begin_task()

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm()

    def before_eval(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm()

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm()
        self.path.taps.append(self._keep)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self.path.taps.remove(self._keep)
        self.path.pool.observe(self._query)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.loss += self.weight * self.path.penalty(self._query)
        self._query = None

    def _keep(self, query: torch.Tensor) -> None:
        self._query = query

    def _disarm(self) -> None:
        """Clear what a forward pass that raised has left."""
        self._query = None
        if self._keep in self.path.taps:
            self.path.taps.remove(self._keep)

    def stored(self) -> StoredBytes:
        pool = self.path.pool
        return StoredBytes(ram=tensor_bytes([*pool.parameters(), *pool.buffers()]))
