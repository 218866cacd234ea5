"""A pool of modules, one per task, and the routed way of an image through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.memory.accounting import tensor_bytes
from avalanche_vlm.models.modules.lora import LoRALayer
from avalanche_vlm.models.routers import PrototypeRouter


class ModulePool:
    """Modules M_0..M_t spread over the layers of a tower; at most one is active.

    :param layers: the injected layers.
    """

    def __init__(self, layers: Sequence[LoRALayer]) -> None:
        self._layers = list(layers)
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str) -> None:
        """Create a module, freeze all others, and make it the active one."""
        for old in self.names:
            self.freeze(old)
        for layer in self._layers:
            layer.add(name)
        self.names.append(name)
        self.activate(name)

    def freeze(self, name: str) -> None:
        """Stop training a module."""
        for parameter in self.parameters(name):
            parameter.requires_grad_(False)

    def activate(self, name: str | None) -> None:
        """Run the tower with this module, or without any."""
        for layer in self._layers:
            layer.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Activate within a block."""
        before = self._layers[0].active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of one module."""
        for layer in self._layers:
            yield from layer.lora[name].parameters()

    def nbytes(self) -> int:
        """Bytes of all modules."""
        return sum(tensor_bytes(self.parameters(name)) for name in self.names)


class RoutedPool(nn.Module):
    """What stands in a :class:`~avalanche_vlm.models.VLM`'s image path: a router chooses each sample's module.

    In training the active module works on everything. At prediction the plain tower's features go to the router; a
    sample that belongs to no known task keeps them, the others run once more, grouped by task.

    :param pool: the modules, in task order.
    :param router: was fitted on the plain tower's features, one task at a time.
    """

    def __init__(self, pool: ModulePool, router: PrototypeRouter) -> None:
        super().__init__()
        self.pool = pool
        self.router = router

    def forward(self, encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]``, not normalised."""
        if self.training:
            return encode(images)
        with self.pool.using(None):
            features = encode(images)
        if len(self.router) == 0:
            return features
        route = self.router.score(F.normalize(features, dim=-1))
        chosen = torch.where(route.is_out_of_distribution, -1, route.task)
        features = features.clone()
        for task in chosen.unique().tolist():
            if task >= 0:
                rows = chosen == task
                with self.pool.using(self.pool.names[task]):
                    features[rows] = encode(images[rows]).to(features.dtype)
        return features
