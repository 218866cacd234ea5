"""Mappings whose tensors are made when they are asked for."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm._on_demand import TensorsOnDemand


def test_tensors_are_made_anew_whenever_they_are_asked_for_and_have_no_graph():
    weight, made = torch.ones(2, requires_grad=True), []

    def make(name: str) -> torch.Tensor:
        made.append(name)
        return weight * len(made)

    lazy = TensorsOnDemand({"b": 0, "a": 0}, make)
    assert list(lazy) == ["b", "a"] and len(lazy) == 2 and made == []
    assert [lazy["a"].tolist(), lazy["a"].tolist()] == [[1, 1], [2, 2]] and made == ["a", "a"]
    assert not any(tensor.requires_grad for tensor in lazy.values())
    with pytest.raises(KeyError):
        lazy["c"]
    assert made == ["a", "a", "b", "a"]
