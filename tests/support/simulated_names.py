"""``cuda`` in what scripts ask torch for, and what C++ does to tensors behind the operators."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from simulated_tensor import NAME, generators, inner, means_device, pinned, there
from torch.overrides import TorchFunctionMode

T = torch.Tensor
DEVICE = torch.device("cuda", 0)


class Names(TorchFunctionMode):
    """Lets torch hear its own name of the device, and scripts ``cuda``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (instead := INSTEAD.get(func)) is not None:
            return instead(func, args, kwargs)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": renamed(kwargs["device"])}
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            return _from_data(func, args, kwargs)
        return func(*args, **kwargs)


def renamed(x: Any) -> Any:
    """What is a name of CUDA's as torch knows the device."""
    if (isinstance(x, str) and x.split(":")[0] == "cuda") or (isinstance(x, torch.device) and x.type == "cuda"):
        return torch.device(NAME, 0)
    return x


def _from_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Tensors of numbers are made by C++, past the operators: on the CPU first."""
    data, *rest = args
    device = kwargs.get("device")
    kwargs = {key: value for key, value in kwargs.items() if key != "device"}
    if isinstance(data, T):
        if func is not torch.tensor:
            made = data if kwargs.get("dtype") is None else data.to(kwargs["dtype"])
            return made if device is None else made.to(device)
        device = data.device if device is None else device
        data = data.detach().cpu()
    made = func(data, *rest, **kwargs)
    return made.to(renamed(device)) if means_device(device) else made


def _refused(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if there(args[0]):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory")
    return func(*args, **kwargs)


def _pin(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    if there(args[0]):
        raise RuntimeError("only dense CPU tensors can be pinned")
    copy = args[0].clone()
    address = copy.untyped_storage().data_ptr()
    pinned.add(address)
    weakref.finalize(copy, pinned.discard, address)
    return copy


def _set_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    target, source = args
    if there(target) != there(source):
        raise RuntimeError("data of another device cannot be set here")
    func(target, source)
    if there(target):
        target.inner = source.inner


def _at(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A list in an index becomes a tensor in C++, past the operators."""
    if not there(args[0]):
        return func(*args, **kwargs)
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    as_tensors = tuple(_as_index(part) if isinstance(part, list | range) else part for part in index)
    return func(args[0], as_tensors if isinstance(args[1], tuple) else as_tensors[0], *args[2:])


def _as_index(numbers: list[Any] | range) -> torch.Tensor:
    return torch.tensor(numbers) if len(numbers) else torch.empty(0, dtype=torch.int64)


def _with_names(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0], *map(renamed, args[1:]), **{key: renamed(value) for key, value in kwargs.items()})


def _new_tensor(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return _from_data(torch.tensor, args[1:], {"device": args[0].device, "dtype": args[0].dtype, **kwargs})


INSTEAD: dict[Any, Callable[[Any, Any, Any], Any]] = {
    T.__getitem__: _at,
    T.__setitem__: _at,
    T.numpy: _refused,
    T.__array__: _refused,
    T.to: _with_names,
    T.cuda: lambda func, args, kwargs: args[0].to(DEVICE, **kwargs),
    T.new_tensor: _new_tensor,
    T.tolist: lambda func, args, kwargs: func(args[0].detach().cpu() if there(args[0]) else args[0]),
    T.pin_memory: _pin,
    T.is_pinned: lambda func, args, kwargs: not there(args[0]) and args[0].untyped_storage().data_ptr() in pinned,
    T.data.__set__: _set_data,
    T.data_ptr: lambda func, args, kwargs: inner(args[0]).data_ptr(),
    T.untyped_storage: lambda func, args, kwargs: func(inner(args[0])),
    T.device.__get__: lambda func, args, kwargs: DEVICE if there(args[0]) else func(*args),
    T.is_cuda.__get__: lambda func, args, kwargs: there(args[0]),
    T.is_cpu.__get__: lambda func, args, kwargs: not there(args[0]) and func(*args),
    T.get_device: lambda func, args, kwargs: 0 if there(args[0]) else -1,
}
"""What is said of a tensor, or done to it, by C++ alone."""


class _OnDevice(torch._C.Generator):
    """A generator that says it is on the device."""

    device = DEVICE

    def __init__(self) -> None:
        generators.add(self._cdata)
        weakref.finalize(self, generators.discard, self._cdata)

    def manual_seed(self, number: int) -> _OnDevice:
        super().manual_seed(number)
        return self


class _Makes(type(torch._C.Generator)):  # type: ignore[misc]
    def __call__(cls, device: Any = "cpu") -> torch._C.Generator:
        return _OnDevice() if means_device(device) else torch._C.Generator()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(metaclass=_Makes):
    """Stands in for ``torch.Generator``, which C++ makes on devices that it knows."""
