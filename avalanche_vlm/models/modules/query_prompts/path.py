"""The way of images through a tower with prompts: first for the query, then with what the query chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool


class QueryPromptPath(nn.Module):
    """What stands in a :class:`~avalanche_vlm.models.VLM`'s image path: a sample's plain feature is its query, and its
    features are those of the tower with the prompts that the query selects or weighs.

    That is two passes of the tower, the first without gradient. Before the first task there is but the first. No sample
    is left to the pretrained model after that: prompts reach what no task trained as well.

    :param pool: the prompts that queries choose from.
    :param tower: they enter it at the pool's places.
    :raises InputError: if they cannot, or the tower checkpoints its activations (the backward pass would run the blocks
        again, without prompts).
    """

    def __init__(self, pool: QueryPromptPool, tower: nn.Module) -> None:
        super().__init__()
        if any(getattr(module, "grad_checkpointing", False) for module in tower.modules()):
            raise InputError("the image tower checkpoints its activations: switch that off to prompt it")
        self.pool = pool
        # In a list: places belong to the tower.
        self.places = pool.install(tower)
        self.taps: list[Callable[[torch.Tensor], None]] = []
        """Called with the queries ``[B, D]`` of every :meth:`forward` that has prompts."""

    def forward(self, encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]``, not normalised.

        :param encode: the tower, images to features that are not normalised.
        :param images: ``[B, 3, H, W]``.
        """
        if not self.pool.tasks:
            return encode(images)
        with torch.no_grad():
            query = F.normalize(encode(images), dim=1)
        for tap in self.taps:
            tap(query)
        with self._prompted(query):
            return encode(images)

    def penalty(self, query: torch.Tensor) -> torch.Tensor:
        """The pool's, in full precision."""
        with torch.autocast(query.device.type, enabled=False):
            return self.pool.penalty(query)

    @contextmanager
    def _prompted(self, query: torch.Tensor) -> Iterator[None]:
        # Cosines of half precision would let samples change their prompts at random.
        with torch.autocast(query.device.type, enabled=False):
            prompts = self.pool(query)
        try:
            for place, own in zip(self.places, prompts, strict=True):
                place.prompts = own
            yield
        finally:
            for place in self.places:
                place.prompts = None
