"""A pool of modules M_0..M_t: one per task, spread over the sites of one or both towers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.storage import read_tensors, write_tensors
from avalanche_vlm.storage.sealed_tensors import refuse_not_finite
from avalanche_vlm.units import did_you_mean


class ModulePool:
    """Modules by name, of which at most one is active.

    :param sites: where they act, by a name that says where that is: ``image.`` or ``text.``, and a layer.
    :raises InputError: if there are none.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        if not sites:
            raise InputError("a pool of modules needs layers to put them into, and got none")
        self.sites = dict(sites)
        self.names: list[str] = []
        self.current: str | None = None
        """The one that trains, or trained last."""
        self._numbered = 0
        """How many modules :meth:`add_next` has named; a number is never given twice."""

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str) -> None:
        """Create a module, freeze all others, and make it the active one.

        :raises InputError: if the name is taken.
        """
        self._free(name)
        for old in self.names:
            self.freeze(old)
        self._make(name)
        self.current = name
        self.activate(name)

    def add_next(self, prefix: str = "task") -> str:
        """:meth:`add` a module under a name that was never given, whatever was dropped, shared or loaded meanwhile: a
        router that has placed samples in a dropped module must not send them to another one.

        :param prefix: what the name begins with; a number follows, from 0 on.
        :return: the name that the module has got.
        """
        while (name := f"{prefix}_{self._numbered}") in self.names:
            self._numbered += 1
        self._numbered += 1
        self.add(name)
        return name

    def share(self, name: str, of: str) -> None:
        """Give a module a second name: what one learns the other knows.

        :param name: the second name.
        :param of: a name that the module has.
        :raises InputError: if the name is taken, or there is no such module.
        """
        self._check(of)
        self._free(name)
        for site in self.sites.values():
            site.bank.share(name, of)
        self.names.append(name)

    def drop(self, name: str) -> None:
        """Forget a module."""
        self._check(name)
        for site in self.sites.values():
            site.drop(name)
        self._forget(name)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        """Make a module part of the base weights, under which all others work from then on, and forget it.

        :param coefficient: factor of the module's change.
        :raises InputError: if it is more than a change of weights; nothing has changed then.
        """
        self._check(name)
        for where, site in self.sites.items():
            if not site.mergeable:
                raise InputError(f"the module at {where} is no change of weights: {name} cannot be merged")
        for site in self.sites.values():
            site.merge(name, coefficient)
        self._forget(name)

    def freeze(self, name: str, frozen: bool = True) -> None:
        """Stop training a module, which then rests, or train it again."""
        self._check(name)
        for site in self.sites.values():
            site.freeze(name, frozen)

    def activate(self, name: str | None) -> None:
        """Run the towers with this module, or without any."""
        if name is not None:
            self._check(name)
        for site in self.sites.values():
            site.active = name
            if name is not None:
                site.bank.lent(name)  # before a forward pass that may be compiled

    @property
    def active(self) -> str | None:
        """The name of the module that works now, if one does."""
        return next(iter(self.sites.values())).active

    @property
    def text_module(self) -> str | None:
        """The active module if it changes texts: their features are then its own."""
        return self.active if any(where.startswith("text.") for where in self.sites) else None

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Activate within a block."""
        before = self.active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def module(self, name: str) -> dict[str, nn.Module]:
        """The parts of one module by site."""
        self._check(name)
        return {where: site.bank[name] for where, site in self.sites.items()}

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of one module."""
        for part in self.module(name).values():
            yield from part.parameters()

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of one module, under the names of their sites."""
        self._check(name)
        parts = {where: site.bank.tensors(name) for where, site in self.sites.items()}
        return {f"{where}.{key}": tensor for where, part in parts.items() for key, tensor in part.items()}

    def save(self, name: str, path: str | Path) -> None:
        """Write one module alone, as safetensors.

        :raises InputError: if that is impossible.
        """
        write_tensors(path, self.state(name))

    def load(self, name: str, path: str | Path) -> None:
        """Read a module that was saved from the same sites, as a frozen one of this pool.

        :raises InputError: if the file is none of these, or belongs to other sites; the pool is then what it was.
        """
        self.restore(name, read_tensors(path), path)

    def restore(self, name: str, state: Mapping[str, torch.Tensor], source: str | Path) -> None:
        """Make a frozen module of tensors by the names of :meth:`state`; which module works and trains stays as it is.

        :param source: where they come from, for the error.
        :raises InputError: if they belong to other sites; the pool is then what it was.
        """
        self._free(name)
        self._make(name)
        try:
            _fill(self.state(name), state, source)
        except InputError:
            self.drop(name)
            raise
        self.freeze(name)

    def state_dict(self) -> dict[str, Any]:
        """The names of the modules, in values that JSON has; their tensors are in the towers' state."""
        same = next(iter(self.sites.values())).bank.second_names()
        own = {"names": list(self.names), "current": self.current, "numbered": self._numbered}
        return {**own, "same": same, "active": self.active}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the modules of a pool over the same sites, before or after the towers' state brings their tensors.

        :param state: what :meth:`state_dict` gave; an earlier one, which does not count the names, goes as well.
        """
        with torch.random.fork_rng(devices=[]):
            for site in self.sites.values():
                site.hold(state["names"], state["same"])
        self.names, self.current, self._numbered = list(state["names"]), state["current"], _numbered(state)
        self.activate(state["active"])

    def take_over(self) -> None:
        """Know the modules that the sites have by now: a state of the towers alone brings and drops some."""
        there = [list(site.bank) for site in self.sites.values()]
        self.names = [name for name in dict.fromkeys([*self.names, *there[0]]) if all(name in bank for bank in there)]
        self.current = self.current if self.current in self.names else next(reversed(self.names), None)
        self._numbered = max(self._numbered, len(self.names))

    def nbytes(self) -> int:
        """Bytes of all modules."""
        banks = [site.bank for site in self.sites.values()]
        return tensor_bytes(tensor for bank in banks for tensor in (*bank.parameters(), *bank.buffers()))

    def stored(self) -> StoredBytes:
        """Bytes of all modules."""
        return StoredBytes(ram=self.nbytes())

    def _check(self, name: str) -> None:
        if name not in self.names:
            near = did_you_mean(name, self.names)
            raise InputError(f"the pool has no module called {name!r}{near}; it has {', '.join(self.names) or 'none'}")

    def _free(self, name: str) -> None:
        if name in self.names:
            raise InputError(f"the pool already has a module called {name!r}")

    def _make(self, name: str) -> None:
        for site in self.sites.values():
            site.add(name)
        self.names.append(name)

    def _forget(self, name: str) -> None:
        self.names.remove(name)
        if self.current == name:
            self.current = None


@torch.no_grad()
def _fill(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], path: str | Path) -> None:
    if set(own) != set(saved):
        odd = sorted(set(own) ^ set(saved))[0]
        raise InputError(f"{path} holds a module of other layers: {odd} is only in one of file and model")
    for key, tensor in own.items():
        there = saved[key]
        if tensor.shape != there.shape:
            raise InputError(f"{path} holds {key} of shape {list(there.shape)}, not {list(tensor.shape)}")
        if tensor.is_floating_point() != there.is_floating_point() or there.is_complex():
            raise InputError(f"{path} holds {key} as {there.dtype}, which is no type of weights like {tensor.dtype}")
    refuse_not_finite(path, saved)
    for key, tensor in own.items():
        tensor.copy_(saved[key])


def _numbered(state: Mapping[str, Any]) -> int:
    """How many names were given: where the state does not say, those up to the largest number that a module has."""
    numbers = (name.rpartition("_")[2] for name in state["names"])
    return state.get("numbered", max((int(n) + 1 for n in numbers if n.isdecimal() and len(n) < 19), default=0))
