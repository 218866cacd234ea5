"""Residual key/value prompts: attention gathers from a few learned pairs as well, and what it finds there is added
(DIKI: Tang et al., arXiv 2407.05342)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._host import to_device
from avalanche_vlm._rows import own_rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.attention import FusedAttention, TimmAttention, is_timm_attention
from avalanche_vlm.models.modules.blocks import Encode, Halves
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import Site, matching
from avalanche_vlm.models.routers import GaussianRouter


class KeyValuePrompts(nn.Module):
    """Keys, uniform in [-1, 1], and values, zero, so that a new module changes nothing; both as in the authors' code.

    :param length: pairs, at least 1.
    :param width: width of the tower's activations, over all heads.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(length, width).uniform_(-1, 1))
        self.values = nn.Parameter(torch.zeros(length, width))


class KeyValueSite(Site):
    """A place in attention where ``w softmax(q K_p^T / sqrt(d)) V_p`` is added, head by head and before the output's
    projection, as in the authors' code: a softmax of its own, so that the prompts take nothing from the tokens. No mask
    hides them."""

    embed_dim: int
    num_heads: int
    length: int
    """Pairs of every module."""
    strength: float | torch.Tensor = 1.0
    """``w``, for all samples or ``[B]``."""

    def build(self) -> nn.Module:
        """New prompts, which change nothing yet."""
        return KeyValuePrompts(self.length, self.embed_dim)

    def with_residual(self, y: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """What the queries ``[B, heads, L, d]`` gather of tokens, ``y``, and of the active module's prompts."""
        if self.active is None:
            return y
        shape = (len(q), self.num_heads, self.length, q.shape[-1])
        keys, values = (
            part.to(q.dtype).view(self.length, self.num_heads, -1).transpose(0, 1).expand(shape)
            for part in (self.module.keys, self.module.values)
        )
        strength = self.strength
        if isinstance(strength, torch.Tensor):
            strength = own_rows(strength).to(y.dtype).view(-1, 1, 1, 1)
        return y + strength * F.scaled_dot_product_attention(q, keys, values)


class KeyValueAttention(FusedAttention, KeyValueSite):
    """Such a place in open_clip's attention.

    :param attention: the layer whose parameters are taken over.
    :param length: pairs of every module.
    """

    def __init__(self, attention: nn.MultiheadAttention, length: int) -> None:
        super().__init__()
        self.take_over(attention)
        self.length = length

    @property
    def unchanged(self) -> bool:
        """Whether no module is active."""
        return self.active is None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, x: torch.Tensor
    ) -> torch.Tensor:
        """What the queries gather of tokens and, added to it, of the active module's prompts."""
        return self.with_residual(super().attend(q, k, v, mask, x), q)


class TimmKeyValueAttention(TimmAttention, KeyValueSite):
    """Such a place in timm's attention.

    :param attention: the layer whose parts are taken over.
    :param length: pairs of every module.
    :raises InputError: if it is more than attention.
    """

    def __init__(self, attention: nn.Module, length: int) -> None:
        super().__init__()
        self.take_over(attention)
        self.length = length

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """What the queries gather of tokens and, added to it, of the active module's prompts."""
        return self.with_residual(super().attend(q, k, v), q)


def inject_key_values(
    tower: nn.Module, *, length: int = 8, depth: int = 8, pattern: str = r"(resblocks|blocks)\.\d+\.attn$"
) -> dict[str, KeyValueSite]:
    """Replace the attention of a tower's first blocks in place.

    :param tower: a tower, for example ``clip.visual``.
    :param length: pairs of every module in each layer, at least 1.
    :param depth: how many of the matching layers, at least 1, from the first; at most all.
    :param pattern: regular expression, searched in module names; must match open_clip's attention or timm's.
    :return: the new layers by name, in the tower's order.
    :raises InputError: for other numbers, or if nothing matches, or what matches is of another kind.
    """
    whole(length, 1, "the length of key/value prompts")
    whole(depth, 1, "the depth of prompts")
    found = dict(list(matching(tower, pattern))[:depth])
    layers: dict[str, KeyValueSite] = {}
    for name, child in found.items():
        if isinstance(child, nn.MultiheadAttention):
            layers[name] = KeyValueAttention(child, length)
        elif is_timm_attention(child):
            layers[name] = TimmKeyValueAttention(child, length)
        else:
            kind = type(child).__name__
            raise InputError(f"key/value prompts need open_clip's attention or timm's, and {name} is a {kind}")
    for name, layer in layers.items():
        layer.train(found[name].training)
        parent, _, last = name.rpartition(".")
        setattr(tower.get_submodule(parent), last, layer)
    return layers


@contextmanager
def strength(layers: Iterable[KeyValueSite], weight: float | torch.Tensor) -> Iterator[None]:
    """Weigh the prompts within a block, and in full afterwards.

    :param layers: the places of one tower.
    :param weight: one number for all samples, or ``[B]``.
    """
    layers = list(layers)
    try:
        for layer in layers:
            layer.strength = weight
        yield
    finally:
        for layer in layers:
            layer.strength = 1.0


class CalibratedPool(RoutedPool):
    """A routed way through a pool, on which the prompts of an image's task count by how likely it belongs there.

    Their weight is ``w = sigmoid(l / D - 1)`` with the log-likelihood ``l`` and the features' width ``D`` (arXiv
    2407.05342, whose code has 512 for ``D``, its own width). Under task labels, which say where a sample belongs, the
    prompts count in full, as they do in training.

    Differs from the authors' code, which weighs the text tower's prompts by the mean over the batch: they count in full
    here, so that nothing depends on the batch and a task's class prompts are encoded once.

    :param pool: the modules that samples are sent to.
    :param router: places samples by their features of the plain tower.
    :param layers: the image tower's places.
    """

    router: GaussianRouter
    layers: list[KeyValueSite]

    def __init__(self, pool: ModulePool, router: GaussianRouter, layers: Iterable[KeyValueSite]) -> None:
        super().__init__(pool, router)
        # The tower's children, not this one's.
        self.__dict__["layers"] = list(layers)
        self._weights: dict[str, torch.Tensor] = {}

    def groups(
        self,
        encode: Encode,
        images: torch.Tensor,
        task_labels: Any = None,
        halves: Callable[[], Halves | None] = lambda: None,
    ) -> Iterator[tuple[Any, torch.Tensor]]:
        """As those of a :class:`~avalanche_vlm.models.modules.routed.RoutedPool`."""
        self._weights = {}

        def weighed() -> Halves | None:
            parts = halves()
            return None if parts is None else parts._replace(above=partial(self._encode, parts.above))

        yield from super().groups(partial(self._encode, encode), images, task_labels, weighed)

    def route(self, features: torch.Tensor) -> list[str | None]:
        """As that of a :class:`~avalanche_vlm.models.modules.routed.RoutedPool`, and the weights of what comes next."""
        names = super().route(features)
        self._weights = {}
        if any(names):
            weights = torch.sigmoid(self.router.log_likelihood(features) / features.shape[1] - 1)
            for name in {name for name in names if name is not None}:
                rows = to_device(torch.tensor([i for i, other in enumerate(names) if other == name]), features.device)
                self._weights[name] = weights[rows, self.of_task.index(name)]
        return names

    def _encode(self, encode: Encode, images: torch.Tensor) -> torch.Tensor:
        active = self.pool.active
        weight = 1.0 if active is None else self._weights.get(active, 1.0)
        with strength(self.layers, weight):
            return encode(images)
