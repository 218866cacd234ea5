"""What has no public name in torch's modules and torchmetrics' metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric


def has_hooks(module: nn.Module | None) -> bool:
    """Whether anything is called around a module's passes, or (None) around those of all: torch has no public list."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    there, mark = (vars(nn.modules.module), "_global_") if module is None else (vars(module), "_")
    return any(there[f"{mark}{kind}"] for kind in kinds)


class ResizesOnLoad(nn.Module):
    """Base of modules whose parts grow while they learn: before a state is loaded, :meth:`prepare_load` makes room.

    torch offers a public hook for that from version 2.5 on only, and hooks do not survive a deep copy. It also takes a
    state without the entry of ``get_extra_state`` for a damaged one; here it is one that says less.
    """

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Take the shape of a state that is about to be loaded. By default every buffer takes that of its entry.

        Whatever it draws does not move the global random state.

        :param state: the entries of this module, without the prefix that they have in a larger model; it must not be
            changed.
        """
        for name, buffer in list(self.named_buffers(recurse=False)):
            if name in state:
                setattr(self, name, torch.empty_like(state[name], device=buffer.device))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                self.prepare_load({k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)})
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and type(error) is not ValueError:
                raise  # a sentence of our own, which names the entry
            error_msgs.append(f"the entries of {prefix or 'the model'} are damaged: {type(error).__name__}: {error}")
            return
        if prefix + EXTRA in missing_keys:
            missing_keys.remove(prefix + EXTRA)


EXTRA = "_extra_state"
"""What torch calls the entry of ``get_extra_state``; the name is documented, its constant is private."""


class RowsMetric(Metric):
    """Base of torchmetrics metrics whose ``compute`` gives tensors of unknown length, a tuple of them.

    Torchmetrics wraps ``compute`` at construction, after a copy and after unpickling, and squeezes every result of one
    element to a number: one sample or one class would come back without its axis. The wrapper has no public name or
    switch. What it gives takes its shapes back here, gathering, caching and copies stay torchmetrics'.
    """

    def _wrap_compute(self, compute: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            found = compute(*args, **kwargs)
            self._shapes = [of.shape for of in found]  # of the metric, as the cached result is: copied with it
            return found

        squeezed = super()._wrap_compute(watched)

        @wraps(compute)
        def in_shape(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            found = squeezed(*args, **kwargs)
            return self.given(tuple(of.reshape(shape) for of, shape in zip(found, self._shapes, strict=True)))

        return in_shape

    def given(self, computed: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What ``compute`` gives in the end: what is noted of a tensor has to be noted again here, because torchmetrics
        copies all that was computed.

        :param computed: the copies, in their shapes.
        """
        return computed


_KINDS = 64
"""Kinds of a module that torch compiles before it lets the module run as it is."""


@contextmanager
def compiled(modules: Sequence[nn.Module], backend: str) -> Iterator[None]:
    """Within a block torch compiles modules, each for itself, with whatever hangs on it or in it as a hook when it is
    called.

    ``Module.compile`` has no way back. And torch goes on by default with code in which a hook is missing that somebody
    has registered since, and compiles nothing any more after eight kinds of a module, of which a pool has one for each
    task; only its configuration, which has no public name, makes it do otherwise.

    :param modules: modules that are called by others; one that its owner has compiled stays as it is.
    :param backend: one of torch's backends, ``"inductor"`` or another of ``torch.compiler.list_backends``.
    """
    from torch._dynamo import config

    plain = [module for module in modules if module._compiled_call_impl is None]
    with config.patch(skip_nnmodule_hook_guards=False, cache_size_limit=_KINDS):
        for module in plain:
            module.compile(backend=backend)
        try:
            yield
        finally:
            for module in plain:
                module._compiled_call_impl = None


def is_compiled(module: nn.Module) -> bool:
    """Whether somebody has torch compile this very module."""
    return module._compiled_call_impl is not None


def compile_failure() -> type[Exception]:
    """What torch raises where it cannot compile."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException
