"""Batches that several processes read together are those that one process reads, whatever their samples draw."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from drawing import Drawing, Files, plain, read_by
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks.passed_over import PassedOver
from avalanche_vlm.benchmarks.reading import ordered_batches, reading_by
from avalanche_vlm.benchmarks.scenario import ImageDataset
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize(
    ("processes", "batch", "workers", "draws"),
    [(2, 4, 0, "all"), (2, 5, 2, "some"), (3, 4, 1, "all"), (3, 2, 0, "all"), (2, 11, 0, "none")],
)
def test_a_share_and_the_shares_of_others_are_the_batch_of_one_process(tmp_path, processes, batch, workers, draws):
    def read():
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        data = Drawing(11, draws)
        batches = plain(ByPlace(DataLoader(data, batch, shuffle=True, num_workers=workers), True))
        return batches, torch.rand(1).item(), random.random(), int(data.images.reads.sum())

    (expected, *drawn, reads) = read()
    assert sorted(y for batch in expected for y in batch[2]) == list(range(11))
    found = read_by(processes, tmp_path, read)
    for batches, *after, _ in found:
        assert batches == expected
        assert after == drawn  # of the generators everybody else draws from, nothing is taken
    if batch >= processes:  # the last batch of one has fewer rows than processes, and is read by all
        assert sum(of for *_, of in found) <= reads + 2 * processes
        assert max(of for *_, of in found) <= reads / processes + 2 * processes


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [InputError, OSError])
def test_what_one_process_cannot_read_ends_all_with_its_sentence(tmp_path, workers, error):
    def read():
        # The sixth sample is the second one of the second process.
        data = Drawing(16, "none", broken=(5,), error=error)
        batches = iter(ByPlace(DataLoader(data, 8, num_workers=workers), True))
        try:
            next(batches)
        except Exception as failure:
            return type(failure).__name__, str(failure)

    (first, second) = read_by(2, tmp_path, read)
    if error is InputError:
        assert first == second == ("InputError", "5.png cannot be decoded")
    else:
        assert first[0] == "InputError" and "process 1 cannot read its share of a batch: OSError: " in first[1]
        assert second[0] == "OSError" and "5.png cannot be decoded" in second[1]


def test_samples_that_differ_are_a_sentence(tmp_path):
    class Uneven(Drawing):
        def __getitem__(self, index):
            return torch.zeros(3, 2 + index // 4)

    def read():
        with pytest.raises(InputError, match="differ and cannot be put together"):
            next(iter(ByPlace(DataLoader(Uneven(8), 8), True)))
        return "refused"

    assert read_by(2, tmp_path, read) == ["refused"] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_known_to_all(tmp_path, workers):
    def read():
        passed_over = PassedOver()
        images = Files(12, broken=(2, 9, 10))
        data = ImageDataset(images, [0, 1] * 6, passed_over.reader(images))
        with reading_by(workers):
            found = [[x[:, 0, 0, 0].tolist(), y.tolist()] for x, y in ordered_batches(data, 6)]
        return found, passed_over.places.tolist(), int(images.reads.sum())

    expected, places, _ = read()
    assert places == [2, 9, 10]
    for found, met, reads in read_by(2, tmp_path, read):
        assert found == expected and met == places
        assert reads <= 9
