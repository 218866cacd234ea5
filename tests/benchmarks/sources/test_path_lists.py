"""Lists of paths: labels that are none, and targets that contradict the folders."""

from __future__ import annotations

import pytest

from avalanche_vlm.benchmarks.sources.path_lists import labelled_lists, yaml_lists
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize("label", [2, 10**12, 2**63, 10**30])
def test_a_huge_label_ends_at_once(tmp_path, label):
    (tmp_path / "train.txt").write_text(f"real/cat/a.jpg 0\nreal/dog/b.jpg {label}\n")
    with pytest.raises(
        InputError, match=r"train.txt has the label .*, and 2 images|line 2: expected a path and a label"
    ):
        labelled_lists(tmp_path, "", {"train": "train.txt"})


@pytest.mark.parametrize("targets", [("0", "0"), ("0", "1", "2")])
def test_targets_that_contradict_the_folders_are_told(tmp_path, targets):
    paths = ["r/cat/a.jpg", "r/dog/b.jpg", "r/cat/c.jpg"][: len(targets)]
    lines = ["data:", *(f"- {path}" for path in paths), "targets:", *(f"- {target}" for target in targets)]
    (tmp_path / "train.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"train.yaml has the target . for ..jpg in ..., and another one elsewhere"):
        yaml_lists(tmp_path, "", {"train": "train.yaml"})
