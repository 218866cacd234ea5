"""Pictures of reference pairs that processes read ahead are those that are read when they are asked for."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.training.reference import ReferenceSet

N, SIZE = 10, 32


class Files:
    """Pictures that are read one by one: each tells its number."""

    def __len__(self):
        return N

    def __getitem__(self, number):
        return number


def picture(number):
    """A model input with the picture's number, and the process that has read it."""
    image = torch.zeros(3, SIZE, SIZE)
    image[0, 0, 0], image[0, 0, 1] = number, os.getpid()
    return image


def references(model):
    captions = tuple(f"a picture of thing {i}" for i in range(N))
    return ReferenceSet(model, ReferencePairs(Files(), captions, picture), batch_size=4, seed=3)


def strategy(workers):
    return SimpleNamespace(device=torch.device("cpu"), dataloader=SimpleNamespace(num_workers=workers))


def read(reference, workers, batches):
    """Numbers of the pictures, those that the reference says, and who has read them."""
    images, rows, processes = [], [], set()
    for _ in range(batches):
        found = reference.next(strategy(workers), None)
        images.append(found.images[:, 0, 0, 0].long().tolist())
        rows.append(found.image_rows.tolist())
        processes |= set(found.images[:, 0, 0, 1].long().tolist())
    return images, rows, processes


@pytest.mark.slow
def test_processes_read_the_same_pictures_in_the_same_order():
    model = mini()
    alone, ahead = references(model), references(model)
    before = torch.get_rng_state()
    expected, rows, mine = read(alone, 0, 7)
    assert mine == {os.getpid()} and expected == rows
    found, rows, others = read(ahead, 2, 3)
    assert others and os.getpid() not in others
    state = ahead.state_dict()
    ahead.end()  # a task is over in the middle of a pass
    more = read(ahead, 2, 4)
    assert found + more[0] == expected == rows + more[1]
    ahead.load_state_dict(state)  # and one that was interrupted begins where it was
    assert read(ahead, 1, 4)[0] == expected[3:]
    assert torch.equal(before, torch.get_rng_state())


def test_pictures_in_memory_need_no_processes():
    model = mini()
    pairs = ReferencePairs(torch.zeros(N, 3, SIZE, SIZE), tuple(map(str, range(N))), lambda image: image)
    reference = ReferenceSet(model, pairs, batch_size=4)
    assert reference.next(strategy(2), None).images.shape == (4, 3, SIZE, SIZE) and reference._ahead is None
