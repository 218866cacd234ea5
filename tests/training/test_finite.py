"""Losses that are no numbers: at once on the CPU. On a device ``test_on_a_device.py`` looks at them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from avalanche_vlm.errors import NotFinite
from avalanche_vlm.training.finite import FiniteLosses, sent_to_host


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_on_the_cpu_is_looked_at_at_once(value):
    losses = FiniteLosses()
    losses.see(torch.tensor(1.0), str)
    with pytest.raises(NotFinite, match=f"^it is {value}$"):
        losses.see(torch.tensor([value]), lambda of: f"it is {of}")
    losses.settle()


def test_a_loss_with_a_graph_is_read_without_a_word(recwarn):
    torch.set_warn_always(True)  # torch says it once in a process otherwise
    try:
        FiniteLosses().see(torch.tensor(1.0, requires_grad=True) * 2, str)
    finally:
        torch.set_warn_always(False)
    assert [str(warning.message) for warning in recwarn] == []


def test_of_several_devices_an_event_marks_the_stream_of_the_tensor_s(monkeypatch):
    now, seen = [0], []

    @contextmanager
    def device_index(index):
        now.append(index)
        yield
        now.pop()

    class Event:
        def __init__(self, kind):
            seen.append((kind, now[-1]))

        def record(self):
            seen.append(("recorded", now[-1]))

    class OnTheSecond:
        device = torch.device("cuda:1")

        def to(self, where, non_blocking):
            return "copy", where, non_blocking

    monkeypatch.setattr(torch.accelerator, "device_index", device_index)
    monkeypatch.setattr(torch, "Event", Event)
    copied, done = sent_to_host(OnTheSecond())
    assert copied == ("copy", "cpu", True) and isinstance(done, Event)
    assert seen == [("cuda", 1), ("recorded", 1)] and now == [0]
