"""Losses that are no numbers: at once on the CPU. On a device ``test_on_a_device.py`` looks at them."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.errors import NotFinite
from avalanche_vlm.training.finite import FiniteLosses


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
