"""L2P's pool of prompts, of which every sample gets those whose keys are nearest to it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.models.modules.query_prompts.places import PromptPlace, TokenPlace
from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool, small_uniform

Selection = Literal["nearest", "diverse"]

_UNUSED = 1e-6
"""Frequency of a prompt that was never used, so that the nearest of several goes first."""


class L2PPool(QueryPromptPool):
    """Learning to prompt (Wang et al., arXiv 2112.08654): all tasks share M prompts with a key each, and a sample gets
    the N whose keys have the smallest cosine distance from its query (eq. 3), in front of its tokens (eq. 2).

    ``"diverse"`` multiplies the distances in training, from the second task on, by how often a prompt was chosen up to
    the task before (eq. 4); prediction is by eq. 3 always. A sample chooses for itself: the authors' code lets the
    batch vote, in training and at prediction, and its selection by task in training has no place here.

    :param tower: the image tower that the prompts are for.
    :param query: width of the queries.
    :param size: number of prompts (M), at least 1.
    :param length: vectors per prompt, at least 1.
    :param chosen: prompts per sample (N), at most ``size``.
    :param selection: how prompts are selected in training, ``"nearest"`` or ``"diverse"``.
    :raises InputError: for a number out of its range, an unknown selection, or a tower without blocks.
    """

    used: torch.Tensor
    using: torch.Tensor
    prompts: torch.Tensor
    keys: torch.Tensor

    def __init__(
        self,
        tower: nn.Module,
        query: int,
        *,
        size: int = 10,
        length: int = 10,
        chosen: int = 4,
        selection: Selection = "nearest",
    ) -> None:
        super().__init__()
        self.size = whole(size, 1, "the size of a pool of prompts")
        self.length = whole(length, 1, "the length of a prompt")
        self.chosen = whole(chosen, 1, "the number of prompts that a sample gets")
        if chosen > size:
            raise InputError(f"a sample cannot get {chosen} prompts of a pool of {size}")
        if selection not in get_args(Selection):
            raise InputError(f"prompts are selected as {' or '.join(get_args(Selection))}, not {selection!r}")
        self.selection = selection
        self.width, self.query = image_blocks(tower).width, query
        self.register_parameter("prompts", None)
        self.register_parameter("keys", None)
        self.register_buffer("used", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("using", torch.zeros(size, dtype=torch.int64))

    def install(self, tower: nn.Module) -> list[PromptPlace]:
        """Let tokens in at the first block's input."""
        return [TokenPlace(image_blocks(tower))]

    def begin_task(self) -> None:
        """Make the prompts before the first task; count their use up to any other."""
        super().begin_task()
        if self.tasks == 1:
            self.prompts = self.parameter(small_uniform(self.size, self.length, self.width))
            self.keys = self.parameter(small_uniform(self.size, self.query))
        self.used += self.using
        self.using.zero_()

    def keep(self, tasks: int) -> None:
        """Drop the prompts if no task stays."""
        if not tasks:
            self.register_parameter("prompts", None)
            self.register_parameter("keys", None)

    def distances(self, query: torch.Tensor) -> torch.Tensor:
        """Cosine distances ``[B, M]`` of queries ``[B, D]`` from the keys."""
        return 1 - F.normalize(query, dim=1) @ F.normalize(self.keys, dim=1).T

    def select(self, query: torch.Tensor) -> torch.Tensor:
        """Indices ``[B, N]`` of each sample's prompts, the first choice first."""
        score = self.distances(query).detach()
        if self.selection == "diverse" and self.training and self.tasks > 1:
            score = score * (self.used / self.used.sum().clamp(min=1) + _UNUSED)
        return score.topk(self.chosen, dim=1, largest=False).indices

    def forward(self, query: torch.Tensor) -> list[torch.Tensor]:
        return [self.prompts[self.select(query)].flatten(1, 2)]

    def penalty(self, query: torch.Tensor) -> torch.Tensor:
        """The distances of the chosen keys, summed over a sample's and averaged over the batch (eq. 5)."""
        return self.distances(query).gather(1, self.select(query)).sum(1).mean()

    @torch.no_grad()
    def observe(self, query: torch.Tensor) -> None:
        """Count the prompts that these samples choose."""
        chosen = self.select(query).flatten()
        self.using.index_add_(0, chosen, torch.ones_like(chosen))  # what bincount counts, but nobody waits for it
