"""Places in a tower where the modules of a pool act, one module at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.bank import Bank

S = TypeVar("S", bound="Site")


class Site(ResizesOnLoad):
    """One place: the modules that were made for it, by name, and which of them is active.

    A subclass is a layer in the place of another (LoRA), or follows a layer of the tower by a hook
    (:class:`HookedSite`). With no module active the tower computes, bit for bit, what it computes without the site.
    """

    mergeable = False
    """Whether a module can become part of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.active: str | None = None
        self.bank = Bank()

    def build(self) -> nn.Module:
        """A new module for this place. Whether it changes anything yet is its own affair."""
        raise NotImplementedError

    @property
    def module(self) -> Any:
        """The active module for the forward pass at hand, None without one. What it can do is the kind's own matter."""
        return None if self.active is None else self.bank.lent(self.active)

    @property
    def shared(self) -> nn.Module | None:
        """What all modules of this place work with, if anything: experts, of which each module is a gate. It is at work
        while any of them is active."""
        return None

    def add(self, name: str, module: nn.Module | None = None) -> None:
        """Put a module there, on the place's device, in its precision and mode.

        :param name: one that is known already is replaced.
        :param module: a new one by default.
        """
        like = self.reference
        module = self.build() if module is None else module
        self.bank[name] = module.to(like.device, like.dtype).train(self.bank.training)

    def freeze(self, name: str, frozen: bool = True) -> None:
        """Stop training a module, which then rests, or train it again."""
        if frozen and self.bank.rests(name):
            return
        self.bank.wake(name)
        for parameter in self.bank[name].parameters():
            parameter.requires_grad_(not frozen)
            parameter.grad = None  # an optimizer that has let it go would never clear it
        if frozen:
            self.bank.rest(name)

    def drop(self, name: str) -> nn.Module:
        """Take a module away."""
        if self.active == name:
            self.active = None
        return self.bank.pop(name)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        """Add a module's change to the weights for good and drop the module.

        The weight becomes a new parameter, and the old one stays as it was: a teacher may share it.

        :param coefficient: factor of the change.
        :raises InputError: if modules of this kind are no change of weights.
        """
        raise InputError(f"{type(self).__name__} does not change weights, so nothing can be merged into them")

    def hold(self, names: Sequence[str], same: Mapping[str, str] | None = None) -> None:
        """Have the modules of these names and no others, in this order; those that are missing are built.

        :param names: the names, each once.
        :param same: names of modules that are another one's second names, and that one's name.
        """
        if self.active not in names:
            self.active = None
        for name in [name for name in self.bank if name not in names]:
            self.bank.pop(name)
        for name in names:
            if (of := (same or {}).get(name)) is not None:
                self.bank.share(name, of)
            elif name not in self.bank:
                self.add(name)
        self.bank.put_in_order(names)

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Have the modules that the state has, if it has any: a state of the tower alone says nothing about them."""
        found = list(dict.fromkeys(key.split(".")[1] for key in state if key.startswith("bank.")))
        for name in self.bank:
            self.bank.wake(name)
        held = [name for name, module in self.bank.items() if name in found or not module.state_dict()]
        if found:
            self.hold([*held, *(name for name in found if name not in held)], self.bank.second_names())
        for name, module in self.bank.items():
            _take_shapes(module, state, f"bank.{name}.")

    @property
    def reference(self) -> nn.Parameter:
        """A parameter of the tower, which tells device and precision."""
        return next(self.parameters())


def _take_shapes(module: nn.Module, state: Mapping[str, Any], prefix: str) -> None:
    """Give a module's tensors the shapes of a state's entries: a module may choose its own, by the weight it is for."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        entry = state.get(prefix + name)
        if entry is not None and entry.shape != tensor.shape:
            where, _, last = name.rpartition(".")
            new = tensor.new_empty(entry.shape)
            new = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
            setattr(module.get_submodule(where), last, new)


class HookedSite(Site):
    """A place on a layer that stays what it is.

    :param host: the layer; it remains the tower's child and not this one's.
    """

    host: Any

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.__dict__["host"] = host

    @property
    def reference(self) -> nn.Parameter:
        """A parameter of the layer, which tells device and precision."""
        return next(self.host.parameters())


def matching(tower: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """Submodules whose name matches, outermost first, in the tower's order.

    :param pattern: regular expression, searched in names such as ``transformer.resblocks.0.mlp``.
    :raises InputError: if there is none.
    """
    found = [(name, module) for name, module in tower.named_modules() if name and re.search(pattern, name)]
    found = [(name, module) for name, module in found if ".bank." not in name]
    if not found:
        raise InputError(f"no layer of the tower, a {type(tower).__name__}, has a name that matches {pattern!r}")
    yield from found


def is_attention_pool(module: nn.Module) -> bool:
    """Whether this is the attention pool of CLIP's ResNets, which reads its layers' weights and never calls them."""
    return type(module).__name__ == "AttentionPool2d" and hasattr(module, "c_proj")


def attach_site(tower: nn.Module, name: str, kind: str, site: HookedSite) -> None:
    """Make a site the tower's child, beside its layer.

    :param name: the layer's name in the tower.
    :param kind: what it is called there.
    """
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        parent = tower.get_submodule(".".join(path[:depth]))
        # Containers run whatever they hold.
        if not isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            parent.add_module("_".join([*path[depth:], kind]), site)
            return


def named(tower: str, sites: Mapping[str, S]) -> dict[str, S]:
    """The same under the tower's name, as a pool wants them."""
    return {f"{tower}.{name}": site for name, site in sites.items()}


def sites_of(model: nn.Module) -> Iterator[Site]:
    """All places in a model."""
    return (module for module in model.modules() if isinstance(module, Site))


def banks(model: nn.Module) -> dict[str, Any]:
    """Which modules the places of a model have, and which of them is active, as values that JSON has.

    :param model: a tower, or a model of several.
    :return: a mapping from a place's name in the model to its modules' ``names``, second names (``same``), and
        ``active``.
    """
    return {
        where: {"names": list(site.bank), "same": site.bank.second_names(), "active": site.active}
        for where, site in model.named_modules()
        if isinstance(site, Site)
    }


def restore_banks(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give the places of a model the modules that :func:`banks` has listed, with values of their own.

    :param model: a model with the same places. What is listed for others is left out.
    :param state: what :func:`banks` gave.
    """
    with torch.random.fork_rng(devices=[]):
        for where, site in list(model.named_modules()):
            if isinstance(site, Site) and where in state:
                site.hold(state[where]["names"], state[where]["same"])
                site.active = state[where]["active"]


def working_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that take part in a forward pass: those of modules that are not active are left out."""
    yield from module.parameters(recurse=False)
    site = module if isinstance(module, Site) else None
    for child in module.children():
        if site is None or child not in (site.bank, site.shared):
            yield from working_parameters(child)
        elif site.active is not None:
            yield from working_parameters(site.module if child is site.bank else child)


def wake_modules(model: nn.Module) -> None:
    """Have all modules of a model as torch has modules, none at rest.

    :param model: a tower, or a model of several.
    """
    for site in sites_of(model):
        for name in site.bank:
            site.bank.wake(name)


def rest_modules(model: nn.Module) -> None:
    """Have those modules of a model rest of which nothing trains.

    :param model: a tower, or a model of several.
    """
    for site in sites_of(model):
        for name in site.bank:
            site.bank.rest(name)


def train_modules(model: nn.Module, mode: bool) -> None:
    """Set the mode of all modules, whatever the mode of the towers around them."""
    for site in sites_of(model):
        site.bank.train(mode)
        if site.shared is not None:
            site.shared.train(mode)


def changed(weight: torch.Tensor, change: torch.Tensor) -> nn.Parameter:
    """A new parameter, which trains if the old one did."""
    return nn.Parameter(weight.detach() + change, requires_grad=weight.requires_grad)
