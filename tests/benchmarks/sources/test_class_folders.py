"""Class folders of which some are read."""

from __future__ import annotations

import pytest
import real_formats

from avalanche_vlm.benchmarks.sources.class_folders import class_folders
from avalanche_vlm.errors import InputError


def test_others_are_left_out_where_all_that_are_read_are_there(tmp_path):
    real_formats.class_folders(tmp_path / "train", ["a", "b", "c"], 1)
    found = class_folders(tmp_path, {"train": "train"}, only=["b", "a"])
    assert list(found.names) == ["a", "b"] and found.parts["train"].labels.tolist() == [0, 1]
    partly = class_folders(tmp_path, {"train": "train"}, only=["a", "b", "c", "d"])
    assert list(partly.names) == ["a", "b", "c"]


def test_others_in_the_place_of_some_that_are_read_are_refused(tmp_path):
    real_formats.class_folders(tmp_path / "train", ["a", "c"], 1)
    with pytest.raises(InputError, match=r"train has the class folder c, which is none of the 2 .*, and no b"):
        class_folders(tmp_path, {"train": "train"}, only=["a", "b"])
