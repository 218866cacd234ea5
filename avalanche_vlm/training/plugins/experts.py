"""Experts that tasks share: balanced while they train, and frozen by use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models.modules.experts import ExpertSite, leave_alone
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class SharedExpertsPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """The life of the experts whose gates a pool holds: put it after the
    :class:`~avalanche_vlm.training.plugins.ModulePerTaskPlugin` of the same sites.

    In every task all experts train that are not frozen, the loss gets ``balance`` times the sum of
    :func:`~avalanche_vlm.models.modules.experts.load_balance` over the sites, and at the task's end the experts that
    it used most freeze (Yu et al., arXiv 2403.11549). An expert that no sample of a batch chose has no gradient, so
    optimizers leave it alone, momentum and weight decay included; one that a penalty moves has its gradient.

    :param sites: where the experts are, by name.
    :param balance: weight of the load balance, 0 or more.
    :param freeze: experts that freeze per site and task, 0 or more.
    :raises InputError: for a setting out of its range.
    """

    states: ClassVar = {"_parts": IN_MODEL}
    cannot: ClassVar = {
        "accumulate": "the use of the experts is balanced within a batch, of which a part says little",
        "grad_checkpointing": "the experts' blocks count what they do and tell the loss of it, and would do so twice",
    }

    def __init__(self, sites: Mapping[str, ExpertSite], *, balance: float = 0.01, freeze: int = 2) -> None:
        super().__init__()
        if balance < 0:
            raise InputError(f"the weight of the load balance is 0 or more, not {balance}")
        self.freeze = whole(freeze, 0, "the number of experts that freeze")
        self.balance = balance
        self.sites = dict(sites)

    @property
    def _parts(self) -> list[nn.Module | torch.Tensor]:
        """The experts, and what is known of their use; the gates are the pool's."""
        parts: list[nn.Module | torch.Tensor] = []
        for site in self.sites.values():
            parts += [site.experts, *site.buffers(recurse=False)]
        return parts

    def prepare_parameters(self, strategy: Strategy) -> None:
        for site in self.sites.values():
            site.start()

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._listen(bool(self.balance))

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.balance:
            strategy.loss += self.balance * sum(b for site in self.sites.values() for b in site.balances or ())
        self._listen(False)

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        leave_alone(self.sites.values())  # before anyone adds to the gradients that there are

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._listen(False)  # clears what a forward pass that raised has left

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for site in self.sites.values():
            site.freeze_most_used(self.freeze)

    def _listen(self, now: bool) -> None:
        for site in self.sites.values():
            site.balances = [] if now else None
