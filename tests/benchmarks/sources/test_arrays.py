"""MNIST's and CIFAR's files: arrays of another rank, and labels that are none."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import real_formats

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("images-idx3", np.zeros((10, 4)), "images-idx3-ubyte holds an array of 2 dimensions, not of 3"),
        ("images-idx3", np.zeros((10, 4, 4, 3)), "holds an array of 4 dimensions, not of 3"),
        ("images-idx3", np.array(7), "holds an array of 0 dimensions, not of 3"),
        ("images-idx3", np.zeros((10, 0, 28)), "images-idx3-ubyte has pictures without pixels"),
        ("labels-idx1", np.zeros((10, 1)), "labels-idx1-ubyte holds an array of 2 dimensions, not of 1"),
        ("labels-idx1", np.arange(10) + 1, "labels-idx1-ubyte: image 9 has the class id 10, and there are 10 classes"),
    ],
)
def test_another_rank_and_another_label_are_one_sentence(tmp_path, file, content, sentence):
    real_formats.mnist(tmp_path)
    (tmp_path / f"MNIST/raw/t10k-{file}-ubyte").write_bytes(real_formats.idx(content))
    with pytest.raises(InputError, match=sentence):
        DATASETS.get("mnist").load(tmp_path)


def test_a_header_of_255_dimensions_is_one_sentence(tmp_path):
    real_formats.mnist(tmp_path)
    header = bytes((0, 0, 8, 255)) + b"\0\0\0\1" * 255
    (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(header + b"\7")
    with pytest.raises(InputError, match="holds an array of 255 dimensions, not of 3"):
        DATASETS.get("mnist").load(tmp_path)


@pytest.mark.parametrize("label", [-1, 4, 2**70])
def test_cifars_labels_are_those_of_its_names(tmp_path, label):
    real_formats.cifar100(tmp_path)
    content = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, label]}
    (tmp_path / "cifar-100-python/test").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"python/test: image 1 has the class id .*, and there are 4 classes"):
        DATASETS.get("cifar100").load(tmp_path)
