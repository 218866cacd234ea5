"""Which tensors have got a whole gradient already, in the backward pass that is under way.

The engine of autograd adds up what comes back to a tensor. Where something as large as the tensor is there already,
what comes next may be a few rows: they are added in its place, and nothing else as large is made.
"""

from __future__ import annotations

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from avalanche_vlm.compat.tensors import backward_pass

_whole = WeakTensorKeyDictionary()
"""The last backward pass in which somebody sent each tensor a whole gradient."""


def send_whole(tensor: torch.Tensor) -> None:
    """Say that a gradient as large as a tensor is sent to it: called within a backward pass, by who returns it there.

    :param tensor: the input of a function whose gradient is sent.
    """
    _whole[tensor] = backward_pass()


def has_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a whole gradient from this backward pass, so that rows can be added to it.

    :param tensor: the input of a function whose gradient is asked for.
    """
    return _whole.get(tensor) == backward_pass()
