"""What the host knows of tensors that were moved: on a device that is not there, in a process of its own."""

from __future__ import annotations

import os

import pytest
import torch

from avalanche_vlm import _host


def test_on_the_cpu_nothing_is_copied_or_noted():
    labels, cpu = torch.tensor([3, 1]), torch.device("cpu")
    assert _host.to_device(labels, cpu) is labels and _host.on_host(labels) is labels and _host.is_known(labels)
    assert _host.known_as(labels, labels) is labels and not vars(labels)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_values_that_were_sent_are_known_until_they_are_written_to():
    from on_device import Asked

    asked = Asked()
    found = asked("known")
    asked.close()
    assert found == {
        "waits": {"sent": 0, "joined": 0, "sliced": 0, "written to": 1, "computed": 1, "images": 1},
        "values": {
            "sent": [3, 1, 2],
            "joined": [3, 1, 2, 7],
            "sliced": [1, 2],
            "written to": [4, 1, 2],
            "computed": [4, 2, 3],
            "images": [1.0, 1.0],
        },
    }
