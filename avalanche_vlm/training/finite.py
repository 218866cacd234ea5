"""Whether losses are numbers, which nobody waits for the device to say."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from avalanche_vlm.errors import NotFinite


@dataclass(slots=True)
class _Seen:
    value: torch.Tensor
    done: torch.Event
    sentence: Callable[[float], str]


class FiniteLosses:
    """Stops a training whose loss is NaN or infinite: at once on the CPU, and on an accelerator when the next loss
    comes or :meth:`settle` is called, because to read the loss at once would let the device run dry in every step.

    One step more is taken then, with weights that are lost anyway.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def see(self, loss: torch.Tensor, sentence: Callable[[float], str]) -> None:
        """A step's loss.

        :param loss: the loss, a scalar.
        :param sentence: what to say of a loss that is no number: takes its value. Where the training stands has to be
            in it already.
        :raises NotFinite: if this loss, or on an accelerator that of the step before, is not finite.
        """
        self.settle()
        value = loss.detach()
        if value.device.type == "cpu":
            _check(value, sentence)
            return
        value, done = sent_to_host(value)
        self._seen = _Seen(value, done, sentence)

    def settle(self) -> None:
        """Have no loss left that was not looked at: before weights are kept or evaluated.

        :raises NotFinite: if it is not finite.
        """
        seen, self._seen = self._seen, None
        if seen is not None:
            seen.done.synchronize()
            _check(seen.value, seen.sentence)


def sent_to_host(value: torch.Tensor) -> tuple[torch.Tensor, torch.Event]:
    """Have a tensor copied to the host, and do not wait for it.

    :param value: a tensor on an accelerator.
    :return: its copy, and the event after which it is there.
    """
    index = value.device.index
    # Of several devices an event marks the stream of the current one, which need not be the tensor's.
    with nullcontext() if index is None else torch.accelerator.device_index(index):
        copied, done = value.to("cpu", non_blocking=True), torch.Event(value.device.type)
        done.record()
    return copied, done


def _check(loss: torch.Tensor, sentence: Callable[[float], str]) -> None:
    if not math.isfinite(value := float(loss)):
        raise NotFinite(sentence(value))
