"""MATLAB's lists: classes that are none."""

from __future__ import annotations

import numpy as np
import pytest
import real_formats
import scipy.io

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (0, "imagelabels.mat: the class of an image is a number from 1, not 0"),
        (-3, "a number from 1, not -3"),
        (19, "imagelabels.mat has the label 18, and 18 images cannot be of so many classes"),
        (10**12, "has the label 999999999999, and 18 images"),
        (0.5, "has no list of whole numbers 'labels'"),
        (float("nan"), "has no list of whole numbers 'labels'"),
        (1e300, "has no list of whole numbers 'labels'"),
    ],
)
def test_a_class_of_flowers_that_is_none_is_one_sentence(tmp_path, label, sentence):
    real_formats.flowers(tmp_path)
    labels = np.array([[1 + k % 3 for k in range(17)] + [label]])
    scipy.io.savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": labels})
    with pytest.raises(InputError, match=sentence):
        DATASETS.get("flowers").load(tmp_path)


def test_flowers_of_which_some_are_missing_have_their_own_names(tmp_path):
    real_formats.flowers(tmp_path)
    scipy.io.savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": np.array([[2, 4] * 9])})
    found = DATASETS.get("flowers").load(tmp_path)
    assert {found.names[label] for label in found.parts["test"].labels} == {"hard-leaved pocket orchid", "sweet pea"}


@pytest.mark.parametrize("label", [0, 3, "x"])
def test_a_class_of_cars_that_is_none_is_one_sentence(tmp_path, label):
    real_formats.stanford_cars(tmp_path)
    rows = np.zeros((1, 2), dtype=[("class", "O"), ("fname", "O")])
    rows[0, 0], rows[0, 1] = (1, "00001.jpg"), (label, "00002.jpg")
    scipy.io.savemat(tmp_path / "stanford_cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(
        InputError, match=r"cars_test_annos_withlabels.mat(: image 1 has the class id| has a class that)"
    ):
        DATASETS.get("stanford-cars").load(tmp_path)
