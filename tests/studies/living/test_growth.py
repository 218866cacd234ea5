"""A stream goes on behind what was learned: numbers, classes, labels and identities."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.living import continued
from avalanche_vlm.studies.living.growth import beginning, identities_of

SIZES = {"n_train": 12, "n_test": 6, "n_held_out": 4, "n_reference": 4}


def batches(stream, number: int) -> list[torch.Tensor]:
    return next(iter(DataLoader(stream[number].dataset, batch_size=4)))


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_a_month_of_its_own_is_that_month_of_the_whole_stream(visible):
    order = ["sketches", "night", "sizes"]
    whole = picturebook.mtil_like(order=order[:2], label_space=visible, **SIZES)
    month = picturebook.mtil_like(order=["night"], label_space=visible, **SIZES)
    found = continued(beginning(whole, 1).label_space, ["sketches"], month)
    assert found.label_space == whole.label_space and found.task_names == whole.task_names
    assert [len(e.dataset) for e in found.train_stream] == [0, 12] and found.train_stream[1].current_experience == 1
    for stream in ("train_stream", "test_stream"):
        for one, other in zip(batches(getattr(found, stream), 1), batches(getattr(whole, stream), 1), strict=True):
            assert torch.equal(one, other)
    assert found.train_stream[1].classes_in_this_experience == whole.train_stream[1].classes_in_this_experience


def test_transforms_of_training_and_evaluation_stay_apart():
    month = picturebook.mtil_like(order=["night"], **SIZES, train_transform=lambda image: torch.ones(3, 2, 2),
                                  eval_transform=lambda image: torch.zeros(3, 2, 2))  # fmt: skip
    space = picturebook.mtil_like(order=["sketches"], **SIZES).label_space
    data = continued(space, ["sketches"], month).train_stream[1].dataset
    assert float(data.train()[0][0].sum()) == 12 and float(data.eval()[0][0].sum()) == 0


def test_a_known_class_keeps_its_id_where_classes_are_shared():
    months = picturebook.time_incremental(n_experiences=2, **SIZES)
    space = beginning(months, 1).label_space
    found = continued(space, ["month 1"], months, [1])
    assert len(found.label_space) == len(space) and found.label_space.tasks[1] == space.tasks[0]
    assert found.task_names == ("month 1", "month 2")
    again = continued(space, ["month 1"], months, [0])
    assert again.task_names == ("month 1", "month 1 (2)")


def test_pairs_go_on_with_the_numbers_of_captions_that_were_learned():
    whole = picturebook.pairs(domains=("sketch", "night"), **SIZES)
    first, second = (picturebook.pairs(domains=(domain,), **SIZES) for domain in ("sketch", "night"))
    known = Identities()
    known.load_state_dict(identities_of(first).state_dict())
    found = continued(None, ["sketch"], second, identities=known)
    for stream in ("train_stream", "test_stream"):
        ours, theirs = (list(map(int, getattr(of, stream)[1].dataset.targets)) for of in (found, whole))
        assert ours == theirs
    assert batches(found.train_stream, 1)[1].tolist() == batches(whole.train_stream, 1)[1].tolist()


def test_no_caption_can_be_read_out_of_the_numbers():
    first = picturebook.pairs(domains=("sketch",), **SIZES)
    from avalanche_vlm.compat.data_sets import source_datasets

    (source,) = source_datasets(first.train_stream[0].dataset)
    kept = str(identities_of(first).state_dict())
    assert not any(caption in kept for caption in source.captions)


def test_what_cannot_go_on_is_said():
    classes, pairs = picturebook.mtil_like(order=["night"], **SIZES), picturebook.pairs(domains=("night",), **SIZES)
    with pytest.raises(
        InputError, match="the model has learned a stream of classes, and picturebook-pairs is one of pairs"
    ):
        continued(classes.label_space, ["night"], pairs)
    with pytest.raises(InputError, match="has 1 experiences, numbered from 0, and none is 1"):
        continued(classes.label_space, ["night"], classes, [1])
    with pytest.raises(InputError, match="no experience of picturebook-mtil is named"):
        continued(classes.label_space, ["night"], classes, [])
