"""Test samples that are kept with a model, when their files were changed since."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import write_tensors
from avalanche_vlm.storage.sealed_tensors import seal_of_tensors, write_sealed
from avalanche_vlm.studies.living.kept import SPACE as SPACE_FILE
from avalanche_vlm.studies.living.kept import kept_sets
from avalanche_vlm.studies.living.records import Kept

SPACE = LabelSpace.from_names(["a", "b"])


def samples() -> dict[str, torch.Tensor]:
    return {
        "pixels": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "y": torch.tensor([0, 1]),
        "task": torch.zeros(2).long(),
    }


def sets(folder, space: bytes, tensors=None, write=write_sealed):
    """The kept sets of a folder with one, beside a file with its label space."""
    write(folder / "tests" / "v1-1.safetensors", tensors or samples())
    if space:
        (folder / "tests" / "v1-1.json").write_bytes(space)
    transform = ImageTransform(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return list(kept_sets(folder, [KEPT], transform))


WHOLE = SPACE_FILE.encoded(SPACE.as_json())


KEPT = Kept(
    name="may",
    samples=2,
    file="v1-1.safetensors",
    content=seal_of_tensors(samples()),
    classes=SPACE_FILE.sealed(SPACE.as_json())["sha256"],
)


def test_files_that_are_whole_and_of_another_set_are_told(tmp_path):
    assert sets(tmp_path / "whole", WHOLE)[0].label_space == SPACE
    with pytest.raises(InputError, match=r"the classes of the test samples of may are missing: there is no file"):
        sets(tmp_path / "without", b"")
    other = SPACE_FILE.encoded(LabelSpace.from_names(["b", "a"]).as_json())
    with pytest.raises(InputError, match=r"v1-1\.json is not what was kept of may: its digest is another"):
        sets(tmp_path / "classes", other)
    with pytest.raises(InputError, match=r"v1-1\.safetensors is not what was kept of may: its digest is another"):
        sets(tmp_path / "samples", WHOLE, {**samples(), "y": torch.tensor([1, 0])})


@pytest.mark.parametrize("space", [b"{", b"[]", b'{"tasks": 1}', b"\xff", b"9" * 5000, b"[" * 100000])
def test_a_label_space_that_was_changed_is_refused(tmp_path, space):
    (asked,) = sets(tmp_path, WHOLE)
    assert asked.label_space == SPACE and len(asked.dataset) == 2
    with pytest.raises(InputError, match=r"v1-1\.json is (damaged|not the classes of kept test samples)[^\n]+$"):
        sets(tmp_path, space)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"y": torch.tensor([0, 2])}, "y has a class that there is not"),
        ({"y": torch.tensor([0, -1])}, "y has a class that there is not"),
        ({"y": torch.tensor([0.0, 1.0])}, r"y is torch\.float32 of \[2\]"),
        ({"task": torch.zeros(3).long()}, r"task is torch\.int64 of \[3\]"),
        ({"pixels": torch.zeros(2, 3, 4, 4)}, r"pixels is torch\.float32"),
        ({"pixels": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, r"pixels is torch\.uint8 of \[2, 3, 8, 8\]"),
        ({"more": torch.zeros(2)}, "it has more"),
        ({"tokens": torch.zeros(2, 5)}, r"tokens are torch\.float32 of \[2, 5\]"),
    ],
)
def test_samples_of_other_kinds_are_refused_whatever_their_digest(tmp_path, changed, why):
    with pytest.raises(InputError, match=rf"v1-1\.safetensors is damaged: {why}"):
        sets(tmp_path, WHOLE, {**samples(), **changed})


def test_samples_that_were_changed_are_told_by_their_digest(tmp_path):
    with pytest.raises(InputError, match=r"v1-1\.safetensors was changed since it was written: its digest is another"):
        sets(tmp_path, WHOLE, write=write_tensors)
