"""GTSRB's table and SVHN's pictures: what is none."""

from __future__ import annotations

import numpy as np
import pytest
import real_formats
import scipy.io

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("Filename;ClassId\n00000.ppm;x\n", "line 2: expected an image under Filename and a class under ClassId"),
        ("Path,ClassId\n00000.ppm,1\n", "line 2: expected an image under Filename"),
        ("Filename;ClassId\n00000.ppm;7\n", "is of the class '00007', which the list of classes does not have"),
    ],
)
def test_a_table_of_signs_that_is_none_is_one_sentence(tmp_path, table, sentence):
    real_formats.gtsrb(tmp_path)
    (tmp_path / "gtsrb/GT-final_test.csv").write_text(table)
    with pytest.raises(InputError, match=sentence):
        DATASETS.get("gtsrb").load(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.float32), "y": [1, 2]}, "has no 8-bit pictures under 'X'"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [1, 2, 3]}, "has 3 digits, and pictures of 32 x 32 x 3 x 2"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [1, 11]}, "image 1 has the class id 11, and there are 10"),
        ({"y": [1]}, "has no 'X'"),
    ],
)
def test_digits_that_are_none_are_one_sentence(tmp_path, content, sentence):
    real_formats.svhn(tmp_path)
    scipy.io.savemat(tmp_path / "svhn/test_32x32.mat", content)
    with pytest.raises(InputError, match=sentence):
        DATASETS.get("svhn").load(tmp_path)


def test_pictures_of_digits_are_those_of_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import SVHN

    real_formats.svhn(tmp_path)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)  # of the archive that is handed out
    theirs, ours = SVHN(str(tmp_path / "svhn"), split="train"), DATASETS.get("svhn").load(tmp_path).parts["train"]
    assert ours.labels.tolist() == [theirs[k][1] for k in range(12)] and 0 in ours.labels
    assert all(np.array_equal(ours.images[k], np.asarray(theirs[k][0])) for k in range(12))


def test_signs_are_those_of_torchvision(tmp_path):
    from torchvision.datasets import GTSRB

    real_formats.gtsrb(tmp_path)
    ours = DATASETS.get("gtsrb").load(tmp_path)
    for part in ("train", "test"):
        theirs = GTSRB(str(tmp_path), split=part)
        assert [str(path) for path in ours.parts[part].paths] == [str(path) for path, _ in theirs._samples]
    assert [ours.keys[label] for label in ours.parts["test"].labels] == ["00014", "00000", "00001"]
