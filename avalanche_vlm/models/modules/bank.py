"""The modules of one place in a tower, of which those that rest are kept as their numbers alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn

_ALIGNED = 64
"""Bytes that a tensor of torch's own lies at a multiple of."""


class _Entry(NamedTuple):
    """One parameter of a module at rest.

    :param key: name of the parameter in the module.
    :param shape: shape of the parameter.
    :param start: number of the module's numbers that lie before it.
    """

    key: str
    shape: torch.Size
    start: int


class Bank(nn.Module):
    """Modules by name, as ``nn.ModuleDict`` has them, of which some are at rest.

    A module of torch's takes some kilobytes beside its numbers, and every parameter another one. Where each task of a
    long stream leaves modules in every layer, most of what they take would be that. A module at rest is one frozen
    parameter ``[n]`` of this one, under the module's name, which holds all of its numbers. State dicts have its
    tensors under the names and in the order that they have at work; they, and what :meth:`lent` and ``bank[name]``
    give, lie in that parameter: whoever writes to them in place changes the module.

    Modules rest that are of one kind: they differ in the numbers of their parameters, and in no setting.
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, None] = {}
        """All names, in their order."""
        self._second: dict[str, str] = {}
        """Second names of modules, and the first."""
        self._at_rest: dict[str, tuple[_Entry, ...]] = {}
        """The parameters of every module at rest, by its first name."""
        self._blank: tuple[nn.Module, ...] = ()
        """A module of the kind without numbers, in a tuple so that it is no part of this one."""
        self._lent: tuple[nn.Module, str, torch.Tensor, int] | None = None
        """The module that :meth:`lent` has given last, whose numbers it has, and where they lay."""

    # Modules by name -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> nn.Module:
        """The module; of one at rest a module of the caller's own around its numbers."""
        if name not in self._names:
            raise KeyError(name)
        return self._module(name) if self.rests(name) else self.get_submodule(name)

    def __setitem__(self, name: str, module: nn.Module) -> None:
        if name in self._names:
            self.wake(name)
            self._forget(name)
        self.add_module(name, module)
        self._names[name] = None

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules."""
        return ((name, self[name]) for name in self._names)

    def values(self) -> Iterator[nn.Module]:
        """The modules, one that has two names twice."""
        return (self[name] for name in self._names)

    def pop(self, name: str) -> nn.Module:
        """Take a module away; under its other names it stays."""
        rests, others = self.rests(name), [other for other in self._names_of(name) if other != name]
        self.wake(name)
        module = self.get_submodule(name)
        delattr(self, name)
        self._forget(name)
        del self._names[name]
        if rests and others:
            self.rest(others[0])
        return module

    def share(self, name: str, of: str) -> None:
        """Give a module a second name.

        :param name: the second name; a module that has it is replaced.
        :param of: a name that the module has.
        """
        rests = self.rests(of)
        self.wake(of)
        self[name] = self.get_submodule(of)
        self._second[name] = self._second.get(of, of)
        if rests:
            self.rest(of)

    def second_names(self) -> dict[str, str]:
        """Names of modules that have another name as well, and that name."""
        return dict(self._second)

    def put_in_order(self, names: Sequence[str]) -> None:
        """Have the names in another order.

        :param names: all names, each once.
        """
        self._names = {name: self._names[name] for name in names}

    def _names_of(self, name: str) -> list[str]:
        """All names of a module, the first one first."""
        first = self._second.get(name, name)
        return [first, *(other for other, of in self._second.items() if of == first)]

    def _forget(self, name: str) -> None:
        """Let a name stand for nothing, the first of several names as well."""
        self._second.pop(name, None)
        others = [other for other, of in self._second.items() if of == name]
        self._second |= dict.fromkeys(others, others[0] if others else "")
        self._second = {other: of for other, of in self._second.items() if other != of}

    # Rest ------------------------------------------------------------------------------------------------------------

    def rests(self, name: str) -> bool:
        """Whether a module is at rest."""
        return self._second.get(name, name) in self._at_rest

    def rest(self, name: str) -> None:
        """Keep a module as its numbers alone until :meth:`wake` is called. One stays as it is that trains, has buffers,
        or is of another kind than those at rest."""
        if self.rests(name):
            return
        module = self.get_submodule(name)
        parameters = dict(module.named_parameters())
        if not parameters or any(p.requires_grad or not p.is_contiguous() for p in parameters.values()):
            return
        if next(module.buffers(), None) is not None or len({(p.dtype, p.device) for p in parameters.values()}) > 1:
            return
        if not self._blank:
            memo: dict[int, Any] = {id(p): nn.Parameter(p.new_empty(0), False) for p in parameters.values()}
            self._blank = (copy.deepcopy(module, memo),)
        if _kind(self._blank[0]) != _kind(module):
            return
        entries, before = _entries(parameters), next(reversed(self._at_rest.values()), ())
        entries = before if before == entries else entries  # one for all, in most banks
        numbers = [parameters[entry.key].detach().reshape(-1) for entry in sorted(entries, key=lambda e: e.start)]
        names = self._names_of(name)
        for of_module in names:
            delattr(self, of_module)
        self.register_parameter(names[0], nn.Parameter(torch.cat(numbers), requires_grad=False))
        self._at_rest[names[0]] = entries

    def wake(self, name: str) -> None:
        """Have a module at rest as one of torch's again, whose parameters do not train until they are told to."""
        if self.rests(name):
            module, names = self._module(name), self._names_of(name)
            delattr(self, names[0])
            del self._at_rest[names[0]]
            for of_module in names:
                self.add_module(of_module, module)

    def lent(self, name: str) -> nn.Module:
        """The module, for as long as a forward pass takes: all modules at rest share one that has the numbers of the
        one that was asked for last. Code that is being compiled has to be that one's."""
        if not self.rests(name):
            return self.get_submodule(name)
        first = self._second.get(name, name)
        if self.get_parameter(first).requires_grad:  # somebody had all parameters train: so its parts do
            return self._training(name)
        if torch.compiler.is_compiling() and self._lent is not None and self._lent[1] == first:
            return self._lent[0]
        numbers = self.get_parameter(first)
        if self._lent is None:
            module = self._module(name)
        else:
            module, before, where, pointer = self._lent
            if before != first or where is not numbers or pointer != numbers.data_ptr():
                for key, part in self.tensors(name).items():
                    owner, _, last = key.rpartition(".")
                    setattr(module.get_submodule(owner), last, nn.Parameter(part, requires_grad=False))
        self._lent = (module, first, numbers, numbers.data_ptr())
        return module if module.training == self.training else module.train(self.training)

    def tensors(self, name: str, keep_vars: bool = False) -> dict[str, torch.Tensor]:
        """All tensors of a module, under the names that its state dict has.

        :param name: name of the module.
        :param keep_vars: whether they have gradients where they train, as in torch's ``state_dict``.
        """
        if not self.rests(name):
            return dict(self.get_submodule(name).state_dict(keep_vars=keep_vars))
        first = self._second.get(name, name)
        numbers: torch.Tensor = self.get_parameter(first)
        numbers = numbers if keep_vars else numbers.detach()
        return {e.key: numbers.narrow(0, e.start, e.shape.numel()).view(e.shape) for e in self._at_rest[first]}

    def _module(self, name: str) -> nn.Module:
        """A new module around the numbers of one at rest."""
        parts, blank = self.tensors(name), self._blank[0]
        memo: dict[int, Any] = {id(p): nn.Parameter(parts[k], requires_grad=False) for k, p in blank.named_parameters()}
        return copy.deepcopy(blank, memo).train(self.training)

    def _training(self, name: str) -> nn.Module:
        """A module whose parameters are parts of the numbers of one at rest, gradients and all."""
        module = copy.deepcopy(self._blank[0])
        for key, part in self.tensors(name, keep_vars=True).items():
            where, _, last = key.rpartition(".")
            owner = module.get_submodule(where)
            delattr(owner, last)
            setattr(owner, last, part)
        return module.train(self.training)

    # What torch and others see ---------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """As that of any module, with the tensors of modules at rest under the names that they have at work."""
        before = 0 if destination is None else len(destination)
        found = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        awake: dict[str, dict[str, Any]] = {}
        for key in [*islice(reversed(found), len(found) - before)][::-1]:
            awake.setdefault(key[len(prefix) :].partition(".")[0], {})[key] = found.pop(key)
        for name in self._names:
            at_rest = self.tensors(name, keep_vars) if self.rests(name) else {}
            found.update({f"{prefix}{name}.{key}": part for key, part in at_rest.items()} or awake.get(name, {}))
        return found

    def __getstate__(self) -> dict[str, Any]:
        # What is lent has this bank's numbers, and a copy has numbers of its own.
        return {**self.__dict__, "_lent": None}

    def named_blanks(self) -> Iterator[tuple[str, nn.Module]]:
        """What ``named_modules`` would have of the modules at rest if they were at work, by the same names: one module
        without numbers stands for all."""
        for name in self._at_rest:
            yield from self._blank[0].named_modules(prefix=name)


def named_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and parameters of a model, those of modules at rest under the names that they have at work: what
    ``named_parameters`` would give if none rested. The parameters of a module at rest are parts of the one that holds
    its numbers, and train if that does.

    :param model: a tower, or a model of several.
    """
    banks = {where: module for where, module in model.named_modules() if isinstance(module, Bank)}
    for name, parameter in model.named_parameters():
        where, _, last = name.rpartition(".")
        bank = banks.get(where)
        if bank is None:
            yield name, parameter
        else:
            yield from ((f"{name}.{key}", part) for key, part in bank.tensors(last, keep_vars=True).items())


TORCHS = frozenset(vars(nn.Module()))
"""What every module of torch's has beside what makes it one of its kind."""


def _kind(module: nn.Module) -> list[Any]:
    """What modules have in common that differ in their numbers alone: the types, settings and parameters' names of all
    parts. Settings that are tensors or functions are those of one module."""
    found: list[Any] = [key for key, _ in module.named_parameters()]
    for name, part in module.named_modules():
        own = {key: value for key, value in vars(part).items() if key not in TORCHS}
        plain = {key: id(of) if isinstance(of, torch.Tensor) or callable(of) else of for key, of in own.items()}
        found.append((name, type(part), plain))
    return found


def _entries(parameters: Mapping[str, torch.Tensor]) -> tuple[_Entry, ...]:
    """Where each parameter lies among the numbers of its module. Those come first that keep the ones behind them at a
    multiple of bytes that kernels are fast with."""
    starts: dict[str, int] = {}
    start = 0
    for key, p in sorted(parameters.items(), key=lambda item: item[1].nbytes % _ALIGNED != 0):
        starts[key] = start
        start += p.numel()
    return tuple(_Entry(key, p.shape, starts[key]) for key, p in parameters.items())
