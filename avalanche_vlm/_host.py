"""What the host knows of tensors on an accelerator, so that it need not wait for the device to tell it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from avalanche_vlm.compat.tensors import version_of

_KNOWN = "values_on_the_host"
"""The attribute of a tensor with its values on the host, and with how often it had been written to. It is gone with the
tensor, and no result of an operation has it."""


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. The host does not wait for it, and :func:`on_host` gives back what was moved.

    From pageable memory a CUDA device copies only when all that it has to do before is done; so what goes there is
    pinned first.

    :param tensor: a tensor that is not written to later. Of numbers and masks the values stay in memory for as long as
        the moved ones; those of images and features are of no use to the host.
    :param device: where it goes.
    :return: the tensor there; the same one if it is there already.
    """
    if tensor.device.type != "cpu" or device.type in ("cpu", "meta"):
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" and not tensor.is_pinned() else tensor
    moved = pinned.to(device, non_blocking=True)
    return known_as(moved, tensor) if tensor.dtype in (torch.long, torch.bool) else moved


def known_as(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A tensor whose values the host has.

    :param tensor: the tensor on a device; returned.
    :param values: a CPU tensor with the same values.
    """
    if tensor.device.type != "cpu":
        setattr(tensor, _KNOWN, (values, version_of(tensor)))
    return tensor


def is_known(tensor: torch.Tensor) -> bool:
    """Whether :func:`on_host` gives a tensor's values without waiting.

    :param tensor: the tensor that is asked about.
    """
    if tensor.device.type == "cpu":
        return True
    known = getattr(tensor, _KNOWN, None)
    return known is not None and known[1] == version_of(tensor)


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's values on the CPU: what the host knows, or else, once the device has come so far, what is there.

    :param tensor: a tensor anywhere.

    >>> on_host(to_device(torch.tensor([3, 1]), torch.device("cpu"))).tolist()
    [3, 1]
    """
    if tensor.device.type == "cpu":
        return tensor
    return getattr(tensor, _KNOWN)[0] if is_known(tensor) else tensor.cpu()


def rows_of_all(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The rows of all tensors in one, of which the host knows the values if it knows those of all.

    :param tensors: tensors of one device whose rows are joined, at least one.

    >>> rows_of_all([torch.tensor([3]), torch.tensor([1, 2])]).tolist()
    [3, 1, 2]
    """
    found = torch.cat(list(tensors))
    if found.device.type != "cpu" and all(map(is_known, tensors)):
        known_as(found, torch.cat([on_host(tensor) for tensor in tensors]))
    return found


def sliced(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    """Rows of a tensor, of which the host knows the values if it knows those of the whole.

    :param tensor: tensor whose rows are asked for.
    :param rows: which of its rows.

    >>> sliced(torch.tensor([3, 1, 2]), slice(1, None)).tolist()
    [1, 2]
    """
    found = tensor[rows]
    return known_as(found, on_host(tensor)[rows]) if found.device.type != "cpu" and is_known(tensor) else found


def wait_for_devices() -> None:
    """Wait until CUDA devices have done all that they were told, where this process uses any."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)
