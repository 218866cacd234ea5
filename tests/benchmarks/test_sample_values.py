"""What is known of every sample does what Avalanche's own attributes do, joined, divided and read."""

from __future__ import annotations

from avalanche.benchmarks.utils import DataAttribute
from avalanche.benchmarks.utils.data_attribute import TaskLabels as Theirs

from avalanche_vlm.benchmarks.sample_values import Targets, TaskLabels


def test_values_are_those_of_an_attribute_of_avalanches():
    for ours, theirs in (
        (Targets([3, 1, 3, 0]), DataAttribute([3, 1, 3, 0], "targets")),
        (TaskLabels([2, 2, 2, 2]), Theirs([2, 2, 2, 2])),
    ):
        assert (ours.name, ours.use_in_getitem) == (theirs.name, theirs.use_in_getitem)
        for here, there in (
            (ours, theirs),
            (ours.subset([0, 3, 0]), theirs.subset([0, 3, 0])),
            (ours.concat(ours.subset([1])), theirs.concat(theirs.subset([1]))),
        ):
            assert list(here) == list(there) and here.uniques == there.uniques and len(here) == len(there)
            assert here.val_to_idx == there.val_to_idx and here.count == there.count and here[1] == there[1]
