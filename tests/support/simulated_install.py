"""Makes ``cuda`` the simulated device, for the rest of the process."""

from __future__ import annotations

from typing import Any

import simulated_autocast as autocast
import torch
import torch.optim.optimizer as optimizers
import torch.utils._foreach_utils as foreach
import torch.utils.backend_registration as backends
from simulated_names import Generator, Names
from simulated_tensor import NAME, DeviceTensor, Operators, random_state, seed
from simulated_waits import wait

_modes: list[Any] = []


class _Backend:
    """What torch asks the module of a device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        return None

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed(self, number: int) -> None:
        seed(number)

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return random_state[0].clone()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        random_state[:] = [state.clone()]

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Event:
    """Stands in for ``torch.Event``: waiting for one counts, although what it marks may be long done."""

    def __init__(self, device: Any = None) -> None:
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        wait("event")


def install() -> None:
    """Make ``cuda`` the simulated device.

    :raises RuntimeError: if there is a real one.
    """
    if _modes:
        return
    if torch.cuda.is_available():
        raise RuntimeError("this machine has a CUDA device, which needs no simulation")
    backend = _Backend()
    backends._setup_privateuseone_for_python_backend(NAME, backend)
    seed(torch.initial_seed())
    autocast.register()
    _stand_in_for_cuda(backend)
    _autocast_hears_cuda()
    torch.Generator = Generator  # type: ignore[misc,assignment]
    torch.Event = _Event  # type: ignore[misc,assignment]
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters are the same objects behind a move
    optimizers._foreach_supported_types.append(DeviceTensor)
    devices = foreach._get_foreach_kernels_supported_devices
    for owner in (foreach, optimizers, torch.nn.utils.clip_grad):
        if hasattr(owner, devices.__name__):
            setattr(owner, devices.__name__, lambda: [*devices(), NAME])
    for mode in (Operators(), Names()):
        mode.__enter__()
        _modes.append(mode)


def _stand_in_for_cuda(backend: _Backend) -> None:
    answers: dict[str, Any] = {
        **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), True),
        **dict.fromkeys(("_is_in_bad_fork", "is_current_stream_capturing"), False),
        **dict.fromkeys(("_lazy_init", "init", "set_device", "synchronize", "empty_cache"), None),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), 0),
        "reset_peak_memory_stats": None,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "simulated",
        "get_device_capability": (9, 0),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = backend.manual_seed
    torch.cuda.get_rng_state = backend.get_rng_state
    torch.cuda.set_rng_state = lambda state, device=None: backend.set_rng_state(state)
    torch.cuda.get_rng_state_all = lambda: [backend.get_rng_state()]
    torch.cuda.set_rng_state_all = lambda states: backend.set_rng_state(*states)


def _autocast_hears_cuda() -> None:
    begin = torch.autocast.__init__

    def renamed(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, NAME if device_type == "cuda" else device_type, *args, **kwargs)

    torch.autocast.__init__ = renamed  # type: ignore[method-assign]
    names = ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype")
    owners = [(torch, name) for name in names]
    owners += [(torch.amp, "is_autocast_available"), (torch.amp.autocast_mode, "is_autocast_available")]
    for owner, name in owners:
        real = getattr(owner, name)
        setattr(owner, name, lambda *args, real=real: real(*(NAME if of == "cuda" else of for of in args)))
