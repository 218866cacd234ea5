"""Data sets with CoOp's splits, in miniature."""

from __future__ import annotations

import json

import pytest
import real_formats

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize("name", real_formats.COOP)
def test_parts_paths_and_names_are_those_of_the_file(tmp_path, name):
    real_formats.coop(tmp_path, name)
    found = DATASETS.get(name).load(tmp_path)
    file, images, classes = real_formats.COOP[name]
    content = json.loads((tmp_path / file).read_text())
    assert {part: len(of) for part, of in found.parts.items()} == {
        "train": 3 * len(classes), "valid": len(classes), "test": 2 * len(classes)
    }  # fmt: skip
    for part, key in (("train", "train"), ("valid", "val"), ("test", "test")):
        assert list(found.parts[part].paths) == [tmp_path / images / row[0] for row in content[key]]
        assert found.parts[part].labels.tolist() == [row[1] for row in content[key]]
    wanted = {"AnnualCrop": "Annual Crop Land"}
    assert list(found.names) == [wanted.get(of, of.replace("_", " ")) for of in classes]


def test_aircraft_has_its_own_lists(tmp_path):
    real_formats.aircraft(tmp_path, "fgvc_aircraft")
    found = DATASETS.get("aircraft-coop").load(tmp_path)
    assert list(found.names) == ["707-320", "A340-200", "Cessna 172_x"] and set(found.parts) == {
        "train", "valid", "test"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train": []}, "is no split file: it has no train and test"),
        ({"train": [["a.jpg", "0", "cat"]], "test": []}, r"train, row 0: expected \[path, label, class name\]"),
        ({"train": [["a.jpg", 0, "cat"]], "test": [["b.jpg", 0, "dog"]]}, "label 0 has two names, 'cat' and 'dog'"),
        ({"train": [["a.jpg", 1, "cat"]], "test": []}, "no image of the label 0"),
    ],
)
def test_a_file_that_is_no_split_is_one_sentence(tmp_path, content, sentence):
    real_formats.coop(tmp_path, "dtd-coop")
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        DATASETS.get("dtd-coop").load(tmp_path)


def test_counts_add_up():
    """Each row of the table sums to the raw data set, less what CoOp leaves out."""
    sums = {name: sum(DATASETS.get(name).sizes.values()) for name in real_formats.COOP}
    assert sums["dtd-coop"] == 5640 and sums["eurosat-coop"] == 27000 and sums["food101-coop"] == 101_000
    assert sums["flowers-coop"] == 8189 and sums["oxford-pets-coop"] == 7349 and sums["stanford-cars-coop"] == 16185
