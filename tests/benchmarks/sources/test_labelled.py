"""Images with class ids: what is no picture and no class is refused, whoever has read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, names_by_label, of_files
from avalanche_vlm.errors import InputError

PICTURES = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (PICTURES, [0, 2], "the part 'train': image 1 has the class id 2, and there are 2 classes"),
        (PICTURES, [-1, 0], "the part 'train': image 0 has the class id -1, and there are 2 classes"),
        (PICTURES, [0], "the part 'train' has 2 images, and not a label for each"),
        (PICTURES, [[0], [1]], "the part 'train' has 2 images, and not a label for each"),
        (PICTURES[0], [0, 1, 0, 1], "has no 8-bit pictures, but an array of 4 x 4 uint8"),
        (PICTURES[..., None], [0, 1], "an array of 2 x 4 x 4 x 1 uint8"),
        (PICTURES[:, :0], [0, 1], "an array of 2 x 0 x 4 uint8"),
        (PICTURES.astype(float), [0, 1], "an array of 2 x 4 x 4 float64"),
    ],
)
def test_what_is_no_picture_or_no_class_is_one_sentence(images, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        LabelledSet(["cat", "dog"], {"train": LabelledPart(images, np.asarray(labels))})


def test_files_and_pictures_with_classes_are_taken():
    parts = {"train": LabelledPart(PICTURES, np.array([0, 1])), "valid": of_files([], [])}
    assert len(LabelledSet(["cat", "dog"], {**parts, "test": of_files([Path("a.png")], [1])}).parts["test"]) == 1
    assert len(
        LabelledSet(["cat", "dog"], {"train": LabelledPart(np.stack([PICTURES] * 3, -1), np.array([1, 1]))}).names
    )


@pytest.mark.parametrize("label", [3, 10**12, 2**63, 10**30])
def test_a_label_beyond_the_images_is_told_before_anything_is_made_of_it(label):
    assert names_by_label({0: "cat", 2: "dog"}, 3, "a list") == ["cat", "class 1", "dog"]
    with pytest.raises(InputError, match=r"a list has the label .*, and 3 images cannot be of so many classes"):
        names_by_label({0: "cat", label: "dog"}, 3, "a list")
