"""A small tower, and pools filled with modules for it."""

from __future__ import annotations

import torch

from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool


class Tower(torch.nn.Module):
    """Passes features on through one linear layer that starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(24, 24)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(24))
            self.layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def filled(*names: str) -> tuple[Tower, ModulePool]:
    """A tower with random modules."""
    tower = Tower()
    pool = ModulePool(inject_lora(tower, rank=2, pattern="layer"))
    for name in names:
        pool.add(name)
        for parameter in pool.parameters(name):
            torch.nn.init.normal_(parameter)
    return tower, pool
