"""DualPrompt's prompts: some for all tasks, some for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.models.modules.query_prompts.places import PromptPlace, put_prefixes
from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool, freeze, small_uniform


class DualPromptPool(QueryPromptPool):
    """DualPrompt (Wang et al., arXiv 2204.04799): prefixes of attention, in the first blocks the same for all tasks
    (G-prompt), in the blocks after them each task's own (E-prompt).

    A task has one key. In training a sample gets the prompt of the current task; at prediction that of the task whose
    key has the smallest cosine distance from its query, whatever the rest of the batch is. A new task's E-prompt starts
    as its predecessor's, as in the authors' code, and its key anew; those of earlier tasks are frozen.

    A prefix of length L is L keys and L values behind the layer's projections, as in the authors' code; in the paper
    they come before the projections, and L counts both.

    :param tower: the image tower that the prompts are for.
    :param query: width of the queries.
    :param shared_blocks: how many of the first blocks have the G-prompt, at least 1.
    :param task_blocks: how many blocks after them have E-prompts, at least 1; of a tower with fewer, all that are left.
    :param shared_length: vectors of the G-prompt in a block, at least 1.
    :param task_length: vectors of an E-prompt in a block, at least 1.
    :raises InputError: for a number below 1, or a tower without blocks for E-prompts.
    """

    def __init__(
        self,
        tower: nn.Module,
        query: int,
        *,
        shared_blocks: int = 2,
        task_blocks: int = 3,
        shared_length: int = 5,
        task_length: int = 20,
    ) -> None:
        super().__init__()
        self.shared_blocks = whole(shared_blocks, 1, "the number of blocks with the shared prompt")
        self.task_blocks = min(whole(task_blocks, 1, "the number of blocks with a task's prompt"), self._left(tower))
        self.task_length = whole(task_length, 1, "the length of a task's prompt")
        self.width, self.query = image_blocks(tower).width, query
        length = whole(shared_length, 1, "the length of the shared prompt")
        self.shared = self.parameter(small_uniform(shared_blocks, 2, length, self.width))
        self.prompts = nn.ParameterList()
        self.keys = nn.ParameterList()

    def _left(self, tower: nn.Module) -> int:
        depth = len(image_blocks(tower).layers)
        if depth <= self.shared_blocks:
            raise InputError(
                f"the tasks' prompts need blocks after the {self.shared_blocks} with the shared prompt, but this tower "
                f"has {depth}"
            )
        return depth - self.shared_blocks

    def install(self, tower: nn.Module) -> list[PromptPlace]:
        """Let prefixes into the attention of the first blocks."""
        return put_prefixes(image_blocks(tower).layers[: self.shared_blocks + self.task_blocks])

    def begin_task(self) -> None:
        """Add the next task's E-prompt and key, and freeze those before."""
        super().begin_task()
        freeze([*self.prompts, *self.keys])
        new = small_uniform(self.task_blocks, 2, self.task_length, self.width)
        self.prompts.append(self.parameter(self.prompts[-1].detach().clone() if len(self.prompts) else new))
        self.keys.append(self.parameter(small_uniform(self.query)))

    def keep(self, tasks: int) -> None:
        """Drop the E-prompts and keys of all tasks but the first ones."""
        self.prompts, self.keys = (nn.ParameterList(list(known)[:tasks]) for known in (self.prompts, self.keys))

    def distances(self, query: torch.Tensor) -> torch.Tensor:
        """Cosine distances ``[B, tasks]`` of queries ``[B, D]`` from the tasks' keys."""
        return 1 - F.normalize(query, dim=1) @ F.normalize(torch.stack(list(self.keys)), dim=1).T

    def forward(self, query: torch.Tensor) -> list[torch.Tensor]:
        shared = self.shared.expand(len(query), *self.shared.shape)
        return [*shared.unbind(1), *self._of_tasks(query).unbind(1)]

    def _of_tasks(self, query: torch.Tensor) -> torch.Tensor:
        """Every sample's E-prompts ``[B, blocks, 2, length, width]``."""
        if self.training:
            return self.prompts[-1].expand(len(query), *self.prompts[-1].shape)
        return torch.stack(list(self.prompts))[self.distances(query).argmin(1)]

    def penalty(self, query: torch.Tensor) -> torch.Tensor:
        """The mean distance of the samples from the current task's key: the paper's matching loss."""
        return self.distances(query)[:, -1].mean()
