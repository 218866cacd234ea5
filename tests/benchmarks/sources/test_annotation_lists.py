"""Lists that say which image is of which class: labels that are none."""

from __future__ import annotations

import json

import pytest

from avalanche_vlm.benchmarks.sources.annotation_lists import breed_lists, split_file
from avalanche_vlm.errors import InputError

HUGE = [4, 10**12, 2**63, 10**30]


@pytest.mark.parametrize("label", HUGE)
def test_a_split_file_with_a_huge_label_ends_at_once(tmp_path, label):
    rows = {"train": [["a.jpg", 0, "cat"], ["b.jpg", label, "dog"]], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"split.json has no image of the label 1, and labels beyond it"):
        split_file(tmp_path, "split.json", "images")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"train": {"a": 1}, "test": []}, "train is no list of images"),
        ({"train": [["a.jpg", True, "cat"]], "test": []}, "train, row 0: expected"),
    ],
)
def test_a_split_file_of_another_form_is_one_sentence(tmp_path, rows, sentence):
    (tmp_path / "split.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=sentence):
        split_file(tmp_path, "split.json", "images")


@pytest.mark.parametrize("label", HUGE)
def test_a_list_of_breeds_with_a_huge_class_ends_at_once(tmp_path, label):
    (tmp_path / "pets/annotations").mkdir(parents=True)
    (tmp_path / "pets/annotations/all.txt").write_text(f"Bengal_1 1 1 1\nbeagle_1 {label} 1 1\n")
    sentence = "has the label .*, and 2 images|the class of beagle_1 is a number from 1, not"
    with pytest.raises(InputError, match=sentence):
        breed_lists(tmp_path, "pets", {"all": "all.txt"})
