"""Bottleneck adapters on the output of a tower's layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._rows import dropout
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.site import HookedSite, attach_site, is_attention_pool, matching, sites_of

DEFAULT_PATTERN = r"(resblocks|blocks)\.\d+\.mlp$"
"""The MLP of every block, of open_clip's towers and of timm's."""

AdapterKind = Literal["parallel", "sequential"]


class Adapter(nn.Module):
    """``scale * U relu(D x)`` with ``D`` Kaiming-uniform and ``U`` zero, so that a new one adds nothing.

    AdaptFormer's (Chen et al., arXiv 2205.13535, eq. 2) and, with a scale of 1, Houlsby's (arXiv 1902.00751, section
    2.1), whose small random weights are zeros here.

    :param width: numbers per token that it reads and adds, at least 1.
    :param bottleneck: inner width, at least 1.
    :param scale: factor of what it adds.
    :param dropout: share of inner values that are left out in training, in [0, 1).
    :param norm: whether it reads what a LayerNorm of its own gives.
    :param learned_scale: whether the scale is trained as well.
    :raises InputError: for a setting out of its range.

    >>> bool((Adapter(3, bottleneck=2)(torch.eye(3)) == 0).all())
    True
    """

    def __init__(
        self,
        width: int,
        bottleneck: int = 64,
        scale: float = 0.1,
        dropout: float = 0.0,
        norm: bool = False,
        learned_scale: bool = False,
    ) -> None:
        super().__init__()
        whole(width, 1, "the width of an adapter")
        whole(bottleneck, 1, "the bottleneck of an adapter")
        if not 0 <= dropout < 1:
            raise InputError(f"the dropout of an adapter is in [0, 1), not {dropout}")
        self.scale: float | nn.Parameter = nn.Parameter(torch.tensor(float(scale))) if learned_scale else scale
        self.dropout = dropout
        self.norm = nn.LayerNorm(width) if norm else None
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What it adds ``[..., D]`` for ``[..., D]``."""
        x = x if self.norm is None else self.norm(x)
        return self.scale * self.up(dropout(F.relu(self.down(x)), self.dropout, self.training))


class OutputSite(HookedSite):
    """A place on a layer's output, to which the active module adds.

    :param host: a layer that gives a tensor, or a tuple that starts with one, as attention does.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__(host)
        host.register_forward_hook(self._after)

    def change(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What is added to the host's output ``y`` for its input ``x``."""
        raise NotImplementedError

    def _after(self, _host: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple | None:
        if self.active is None:
            return None  # the output as it is
        y, *others = output if isinstance(output, tuple) else (output,)
        y = y + self.change(inputs[0], y).to(y.dtype)
        return (y, *others) if isinstance(output, tuple) else y


class AdapterSite(OutputSite):
    """An adapter per module beside a layer or after it.

    :param host: the layer beside which it works.
    :param width: numbers per token of the layer's output.
    :param kind: ``"parallel"`` reads what the layer reads, ``"sequential"`` what it gives; both add to what it gives.
    :param settings: what :class:`Adapter` takes besides the width.
    """

    def __init__(self, host: nn.Module, width: int, kind: str = "parallel", **settings: Any) -> None:
        super().__init__(host)
        self.width, self.kind, self.settings = width, kind, settings

    def build(self) -> Adapter:
        """A new adapter."""
        return Adapter(self.width, **self.settings)

    def change(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What the active adapter adds to ``y``."""
        return self.module(x if self.kind == "parallel" else y)


def inject_adapters(
    tower: nn.Module,
    *,
    pattern: str = DEFAULT_PATTERN,
    bottleneck: int = 64,
    scale: float = 0.1,
    dropout: float = 0.0,
    kind: str = "parallel",
    norm: bool = False,
    learned_scale: bool = False,
) -> dict[str, AdapterSite]:
    """Put places for adapters on the matching layers of a tower; the layers and their state-dict keys stay.

    The defaults are AdaptFormer's; Houlsby's places are ``pattern=r"resblocks\\.\\d+\\.(attn|mlp)$"`` with
    ``kind="sequential"`` and ``scale=1``.

    :param tower: a tower, for example ``clip.visual``.
    :param pattern: regular expression searched in module names; must match layers that work on the last axis.
    :param bottleneck: inner width of every adapter, at least 1.
    :param scale: factor of what an adapter adds.
    :param dropout: share of inner values left out in training, in [0, 1).
    :param kind: ``"parallel"`` or ``"sequential"``, as in :class:`AdapterSite`.
    :param norm: whether every adapter reads what a LayerNorm of its own gives.
    :param learned_scale: whether the scale of every adapter is trained as well.
    :return: the places by name, in the tower's order.
    :raises InputError: for a setting out of its range, if nothing matches, if a match has no linear layer (a
        convolution of a ModifiedResNet), has adapters already, or differs in what it reads and what it gives, which a
        parallel adapter cannot.
    """
    if kind not in get_args(AdapterKind):
        raise InputError(f"adapters are {' or '.join(get_args(AdapterKind))}, not {kind!r}")
    settings: dict[str, Any] = {"bottleneck": bottleneck, "scale": scale, "dropout": dropout}
    settings |= {"norm": norm, "learned_scale": learned_scale}
    Adapter(1, **settings)  # refuses wrong settings before anything changes

    def make(_name: str, host: nn.Module, _reads: int, gives: int) -> AdapterSite:
        return AdapterSite(host, gives, kind, **settings)

    return put_sites(tower, pattern, "adapters", AdapterSite, make, same=kind == "parallel")


HookedKind = TypeVar("HookedKind", bound=HookedSite)


def put_sites(
    tower: nn.Module,
    pattern: str,
    called: str,
    kind: type[HookedKind],
    make: Callable[[str, nn.Module, int, int], HookedKind],
    same: bool,
) -> dict[str, HookedKind]:
    """Put a place on every matching layer, or on none.

    :param pattern: regular expression searched in module names.
    :param called: how the places are called in the tower, after the layer's name.
    :param kind: class of the place; a layer has at most one of each.
    :param make: a place from a layer's name, the layer, and how many numbers it reads and gives.
    :param same: whether those two must be equal.
    :return: the places by the layers' names, in the tower's order.
    :raises InputError: if nothing matches, or a match has such a place already, no linear layer, the wrong widths, or
        weights that something else reads without calling it.
    """
    taken = {id(site.host) for site in sites_of(tower) if isinstance(site, kind)}
    found = []
    for name, host in matching(tower, pattern):
        reads, gives = widths(name, host)
        _check_called(tower, name)
        if id(host) in taken:
            raise InputError(f"{name} has a place for {called} already")
        if same and reads != gives:
            raise InputError(f"{name} reads {reads} numbers and gives {gives}: no adapter fits beside it")
        found.append((name, host, reads, gives))
    sites = {name: make(name, host, reads, gives) for name, host, reads, gives in found}
    for name, site in sites.items():
        attach_site(tower, name, called, site.train(site.host.training))
    return sites


def widths(name: str, layer: nn.Module) -> tuple[int, int]:
    """How many numbers a layer reads and gives per token: those of its first and last linear layers.

    :param name: the layer's name, for the error.
    :raises InputError: if it has none.

    >>> widths("mlp", nn.Sequential(nn.Linear(3, 12), nn.GELU(), nn.Linear(12, 4)))
    (3, 4)
    """
    linears = list(_linears(layer))
    if not linears:
        raise InputError(
            f"{name}, a {type(layer).__name__}, has no linear layer that tells its width: give a pattern of layers "
            "that work on the last axis, such as the MLPs of transformer blocks"
        )
    return linears[0].in_features, linears[-1].out_features


def _check_called(tower: nn.Module, name: str) -> None:
    owner = tower.get_submodule(name.rpartition(".")[0])
    if is_attention_pool(owner) or isinstance(owner, nn.MultiheadAttention):
        raise InputError(f"{name} is never called, its {type(owner).__name__} reads its weight: match that instead")


def _linears(layer: nn.Module) -> Iterator[Any]:
    """Linear layers, adapted ones too, but none of what sites have added."""
    if isinstance(getattr(layer, "out_features", None), int):
        yield layer
        return
    for child in layer.children():
        if not isinstance(child, HookedSite):
            yield from _linears(child)
