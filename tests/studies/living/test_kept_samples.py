"""Test samples that are kept with a model, when their files were changed since."""

from __future__ import annotations

import json

import pytest
import torch

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import write_tensors
from avalanche_vlm.studies.living.kept import kept_sets
from avalanche_vlm.studies.living.records import Kept

SPACE = LabelSpace.from_names(["a", "b"])


def sets(folder, space: bytes):
    """The kept sets of a folder with one, beside a file with its label space."""
    tensors = {
        "pixels": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "y": torch.tensor([0, 1]),
        "task": torch.zeros(2).long(),
    }
    write_tensors(folder / "tests" / "v1-1.safetensors", tensors)
    (folder / "tests" / "v1-1.json").write_bytes(space)
    transform = ImageTransform(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return list(kept_sets(folder, [Kept(name="may", samples=2, file="v1-1.safetensors")], transform))


@pytest.mark.parametrize("space", [b"{", b"[]", b'{"tasks": 1}', b"\xff", b"9" * 5000, b"[" * 100000])
def test_a_label_space_that_was_changed_is_refused(tmp_path, space):
    (asked,) = sets(tmp_path, json.dumps(SPACE.as_json()).encode())
    assert asked.label_space == SPACE and len(asked.dataset) == 2
    with pytest.raises(InputError, match=r"v1-1\.json is damaged: [^\n]+$"):
        sets(tmp_path, space)
