"""The private names that we rely on still do what they did."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.data import DataLoader

from avalanche_vlm.compat import register_collate


@dataclasses.dataclass
class Box:
    value: int


def test_registered_containers_reach_loaders_that_name_no_collate_function():
    register_collate(Box, lambda samples, *, collate_fn_map=None: torch.tensor([s.value for s in samples]))
    batches = list(DataLoader([(Box(i), i) for i in range(4)], batch_size=2))
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3]]
