"""What L2P, DualPrompt and CODA-Prompt share: prompts that grow with the tasks and are read by a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.models.modules.query_prompts.places import PromptPlace


class QueryPromptPool(ResizesOnLoad):
    """Prompts, and what decides for a sample's query which of them it gets.

    A query is the plain tower's unit-length feature of the sample. It has no gradient.
    """

    begun: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tasks = 0
        """How many have begun. Before the first there are no prompts."""
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))

    def install(self, tower: nn.Module) -> list[PromptPlace]:
        """Make room for the prompts in a tower, which computes what it computed until a place is given some."""
        raise NotImplementedError

    def begin_task(self) -> None:
        """Make the parameters that the next task trains, and freeze those of tasks before it that it may not."""
        self.tasks += 1
        self.begun += 1

    def forward(self, query: torch.Tensor) -> list[torch.Tensor]:
        """The prompts of these samples ``[B, D]``, for each place that :meth:`install` has made, batch first."""
        raise NotImplementedError

    def penalty(self, query: torch.Tensor) -> torch.Tensor:
        """What the method adds to the task's loss for these samples of the current task, before it is weighed."""
        raise NotImplementedError

    def observe(self, query: torch.Tensor) -> None:
        """Take note of what a training step has used."""

    def parameter(self, values: torch.Tensor) -> nn.Parameter:
        """A new parameter where the others are."""
        return nn.Parameter(values.to(self.begun.device, torch.float32))

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Have the parameters of as many tasks as the state has."""
        wanted = int(state.get("begun", self.tasks))
        for _ in range(self.tasks, wanted):
            self.begin_task()
        if wanted < self.tasks:
            self.keep(wanted)
        self.tasks = wanted

    def keep(self, tasks: int) -> None:
        """Drop the parameters of all tasks but the first ones.

        :param tasks: how many tasks stay, fewer than there are.
        """
        raise NotImplementedError


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Stop training them; a gradient that is left from the last step would let an optimizer move them once more."""
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def small_uniform(*shape: int) -> torch.Tensor:
    """Uniform in [0, 0.01), as prompts and keys start in the code of L2P and DualPrompt."""
    return torch.rand(shape) * 0.01
