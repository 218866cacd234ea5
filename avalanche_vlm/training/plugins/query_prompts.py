"""Prompts that every sample's query selects or weighs, trained on a frozen VLM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.query_prompts import QueryPromptPath, QueryPromptPool
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.plugins.taps import Tap
from avalanche_vlm.training.protocol import Strategy


class QueryPromptPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the VLM, send its images through a pool of prompts, and add the pool's penalty to the loss.

    Texts keep their features. Images do not, whether a task was trained on their like or not: nothing stays out, so
    zero-shot abilities erode.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, images prompted.
    :param pool: the prompts, made for the model's image tower.
    :param weight: weight of the penalty, at least 0.
    :raises InputError: if the weight is negative, another method has the model's image path or its class head, or
        prompts cannot enter its tower.
    """

    cannot: ClassVar = {
        "accumulate": "the prompts that each sample has chosen enter the image tower for a whole batch",
        "grad_checkpointing": "the prompts that each sample has chosen are in the image tower for one pass alone",
    }
    states: ClassVar = {"pool": IN_MODEL}

    def __init__(self, model: VLM, pool: QueryPromptPool, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"the weight of a penalty is 0 or more, not {weight}")
        self.weight = weight
        self.pool = pool
        self.path = QueryPromptPath(pool, model.tower("image"))
        model.install("image_path", self.path, "prompts by query")
        model.freeze("image", "text", "scale")
        self._tap: Tap[torch.Tensor] = Tap()

    def prepare_parameters(self, strategy: Strategy) -> None:
        self.pool.begin_task()

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(self.path.taps)

    def before_eval(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(self.path.taps)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.arm(self.path.taps)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.close(self.path.taps)
        self.pool.observe(self._query())

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.loss += self.weight * self.path.penalty(self._query())
        self._tap.disarm(self.path.taps)

    def _query(self) -> torch.Tensor:
        assert self._tap.seen is not None  # a forward pass in training always tells its queries
        return self._tap.seen
