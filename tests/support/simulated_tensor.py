"""The tensors of the simulated device, and the rules by which operators take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from simulated_waits import WAITS, wait
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"
"""What torch calls the device inside; scripts see ``cuda``."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
TAKE_NUMBERS = {"masked_fill", "masked_fill_", "index_fill", "index_fill_", "fill", "fill_", "where", "lerp", "lerp_"}
TAKE_NUMBERS |= {"clamp", "clamp_", "select_scatter", "_foreach_mul", "_foreach_mul_", "_foreach_add", "_foreach_add_"}
TAKE_NUMBERS |= {"_foreach_div", "_foreach_div_", *INDEXED}
"""Operators that take a CPU tensor without dimensions as a number, beside the pointwise ones."""
TAKE_STEPS = {"_fused_adam_", "_fused_adamw_", "_fused_sgd_"}
"""Optimizers whose counters of steps may lie on the CPU."""


class DeviceTensor(torch.Tensor):
    """A CPU tensor that says it is on the device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **layout, device=f"{NAME}:0")
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.inner!r} on cuda:0"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            memo[id(self)] = _made(self.inner.detach().clone(), *self._kind())
        return memo[id(self)]

    def __reduce_ex__(self, protocol: int) -> Any:
        return _made, (self.inner.detach().clone(), *self._kind())

    def _kind(self) -> tuple[bool, bool]:
        return isinstance(self, torch.nn.Parameter), self.requires_grad

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


def _made(inner: torch.Tensor, parameter: bool, requires_grad: bool) -> torch.Tensor:
    made = DeviceTensor(inner)
    return torch.nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)


def there(x: Any) -> bool:
    """Whether something is a tensor on the device."""
    return isinstance(x, DeviceTensor)


def means_device(device: Any) -> bool:
    """Whether a name or ``torch.device`` is the device's."""
    return device is not None and torch.device(device).type in (NAME, "cuda")


def inner(x: Any) -> Any:
    """The CPU tensor behind one on the device, and everything else as it is."""
    return x.inner if there(x) else x


def _outer(x: Any) -> Any:
    return DeviceTensor(x) if isinstance(x, torch.Tensor) and not there(x) else x


class Operators(TorchDispatchMode):
    """Sees the operators that no tensor of the device takes part in: factories, and copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


def operate(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator, on CPU memory, by the device's rules."""
    name = func._schema.name.split("::")[1]
    device, tensors = kwargs.get("device"), [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    takes = any(map(there, tensors))
    if not takes and not means_device(device):
        _same_generator(kwargs, False)
        return func(*args, **kwargs)
    if name == "copy_":
        _count_copy(args[1], there(args[0]), bool(kwargs.get("non_blocking") or args[2:3] == (True,)))
        func(inner(args[0]), inner(args[1]))
        return args[0]
    if name == "_to_copy":
        on_device = takes if device is None else means_device(device)
        _count_copy(args[0], on_device, bool(kwargs.get("non_blocking")))
        rest = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
        copied = func(inner(args[0]), **rest)
        return DeviceTensor(copied) if on_device else copied
    if name == "_fused_sdp_choice":
        return 0  # the form in plain operators, which every device has
    if name in ("record_stream", "_record_stream"):
        return None
    if name in ("_pin_memory", "pin_memory"):
        raise RuntimeError("only dense CPU tensors can be pinned")
    if takes:
        _same_device(func, name, args, tensors)
    on_device = takes if device is None else means_device(device)
    _same_generator(kwargs, on_device)
    _count(func, name, args, kwargs)
    plain = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if device is not None:
        plain["device"] = torch.device("cpu")
    with own_random(func, kwargs):
        found = func(*tree_map(inner, args), **tree_map(inner, plain))
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_outer, found)) if on_device else found


# The rules ------------------------------------------------------------------------------------------------------------


def _same_device(func: Any, name: str, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> None:
    """Tensors of two devices do not meet."""
    allowed: list[Any] = []
    if name in INDEXED:
        allowed = [i for i in args[1] if i is not None]
        if not there(args[0]) and any(map(there, allowed)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    numbers = name in TAKE_NUMBERS or torch.Tag.pointwise in func.tags
    for tensor in tensors:
        if there(tensor) or name in TAKE_STEPS or any(tensor is index for index in allowed):
            continue
        if tensor.ndim or not numbers:
            raise _two_devices(func, tensor)
    first = func._schema.arguments[0].alias_info if func._schema.arguments else None
    if first is not None and first.is_write and isinstance(args[0], torch.Tensor) and not there(args[0]):
        raise _two_devices(func, args[0])


def _two_devices(func: Any, tensor: torch.Tensor) -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu: one of shape "
        f"{list(tensor.shape)} is on the CPU, in {func}"
    )


def _same_generator(kwargs: dict[str, Any], on_device: bool) -> None:
    generator = kwargs.get("generator")
    if generator is not None and (generator._cdata in generators) != on_device:
        expected, found = ("cuda", "cpu") if on_device else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")


# What the host waits for ----------------------------------------------------------------------------------------------


def _count(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name in WAITS:
        wait(WAITS[name])
    elif name in INDEXED and there(args[0]):
        indices = [i for i in args[1] if i is not None]
        # A mask's number of trues decides shapes, unless all that it chooses gets one number.
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices) and not (args[2:] and args[2].numel() == 1):
            wait("mask")
        if not all(map(there, indices)):
            wait("to the device")
    elif name == "repeat_interleave" and "self_Tensor" not in str(func) and kwargs.get("output_size") is None:
        wait("repeat_interleave")


def _count_copy(source: torch.Tensor, on_device: bool, non_blocking: bool) -> None:
    if there(source) and not on_device and not non_blocking:
        wait("to the host")
    elif on_device and not there(source) and not (non_blocking and source.untyped_storage().data_ptr() in pinned):
        wait("to the device")


pinned: set[int] = set()
"""Addresses of memory that was pinned."""

# Random numbers -------------------------------------------------------------------------------------------------------

generators: set[int] = set()
"""Addresses of the generators that belong to the device."""
random_state: list[torch.Tensor] = []
"""The state of the device's own generator."""


def seed(number: int) -> None:
    """Seed the device's generator: other numbers than the CPU's come of the same seed."""
    random_state[:] = [torch._C.Generator().manual_seed((number ^ 0xD1CE) % 2**63).get_state()]


@contextmanager
def own_random(func: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """What an operator draws without a generator comes from the device's."""
    if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
        yield
        return
    of_the_cpu = torch.default_generator.get_state()
    torch.default_generator.set_state(random_state[0])
    try:
        yield
    finally:
        random_state[:] = [torch.default_generator.get_state()]
        torch.default_generator.set_state(of_the_cpu)
