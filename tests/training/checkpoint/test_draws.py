"""What is drawn after a training was killed is what would have been drawn: by loaders, transforms and plugins."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils.data_loader import TaskBalancedDataLoader
from avalanche.training.supervised import Naive
from killed import Training, assert_same
from mini import mini
from quick import one_each
from torch.utils.data import DataLoader, WeightedRandomSampler

from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint.batches import END, EpochBatches, loader_settings, refuse_loader
from avalanche_vlm.training.plugins.base import VLMPlugin

SIZES = {"n_train": 40, "n_test": 8, "n_held_out": 8, "n_reference": 16}


def jittered(picture: Any) -> torch.Tensor:
    """A transform that draws from every global generator."""
    shift = 0.05 * torch.randn(()) + 0.05 * random.random() + 0.05 * np.random.rand()
    return TRANSFORM(picture) + shift


TRANSFORM = mini().transforms.eval


class Draws(VLMPlugin):
    """Draws in every iteration, as dropout does."""

    states: ClassVar = {}

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        torch.rand(3), random.random(), np.random.rand()


@pytest.fixture(scope="module")
def streams():
    order, given = ["sketches", "night"], {"train_transform": jittered, "eval_transform": TRANSFORM}
    return {
        "classes": picturebook.mtil_like(order=order, **given, **SIZES),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **given, **SIZES),
    }


@pytest.fixture(scope="module")
def mixed(streams):
    """A stream whose first experience has two tasks, of which Avalanche's loader shows the smaller one three times."""
    first, second = (experience.dataset for experience in streams["classes"].train_stream)
    small = second.subset(list(range(12)))
    benchmark = streams["classes"]
    return VLMBenchmark(
        "mixed",
        "classes",
        [first.concat(small), second.subset(list(range(12, 40)))],
        [experience.dataset for experience in benchmark.test_stream],
        label_space=benchmark.label_space,
        task_names=benchmark.task_names,
    )


LOADERS = {
    "as it is": {},
    "in processes": {"num_workers": 2},
    "in order": {"shuffle": False},
    "full batches": {"drop_last": True},
}


def check(training: Training, folder, number: int, event: str = "after_forward", **options: Any) -> None:
    whole = training.run(folder / "whole")
    assert training.run(folder / "killed", event, number, **options) is None
    assert_same(whole, training.run(folder / "killed"))


@pytest.mark.parametrize(
    ("name", "kind", "base"),
    one_each((name, kind, base) for name in LOADERS for kind in ("classes", "pairs") for base in (Naive, VLMNaive)),
)
def test_loaders_deal_the_same_batches(streams, tmp_path, name, kind, base):
    training = Training(
        streams[kind], lambda model: [Draws()], base=base, epochs=2, training=LOADERS[name], evaluate=False, minutes=9
    )
    check(training, tmp_path, 6, asks=4)


@pytest.mark.parametrize(("number", "workers"), one_each((number, w) for number in (3, 5, 9) for w in (0, 2)))
def test_a_data_set_that_starts_anew_within_an_epoch_has_the_same_order(mixed, tmp_path, number, workers):
    training = Training(
        mixed,
        lambda model: [Draws()],
        base=Naive,
        training={"num_workers": workers},
        evaluate=False,
        epochs=2,
        minutes=9,
    )
    check(training, tmp_path, number + 1, asks=number)


class Listener:
    """An owner that notes what it is told, and draws between batches as a training does."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def started(self) -> None:
        self.told.append("started")

    def between(self, trained: int) -> None:
        self.told.append(trained)

    def load(self, batches):
        return next(batches, END)


def plain(**options: Any) -> DataLoader:
    return DataLoader(list(range(10)), batch_size=3, **{"shuffle": True} | options)


@pytest.mark.parametrize("skip", [0, 1, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": False},
        {"drop_last": True},
        {"shuffle": False, "sampler": WeightedRandomSampler([1.0] * 10, 10)},
    ],
)
def test_an_epoch_starts_behind_its_first_batches(options, skip):
    torch.manual_seed(3)
    loader = plain(**options)
    whole = [batch.tolist() for batch in loader]
    torch.manual_seed(3)
    owner = Listener()
    rest = EpochBatches(loader, owner, skip)
    assert len(rest) == len(loader) and rest.batch_size == 3
    if skip > len(whole):
        return
    assert [batch.tolist() for batch in rest] == whole[skip:]
    assert owner.told == ["started", *range(skip, len(whole) + 1)]


def test_what_is_not_needed_is_not_loaded():
    read: list[int] = []

    class Data:
        def __len__(self):
            return 10

        def __getitem__(self, number):
            read.append(number)
            return number

    torch.manual_seed(0)
    list(EpochBatches(DataLoader(Data(), batch_size=2, shuffle=True), Listener(), 4))
    assert len(read) == 2


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (plain(generator=torch.Generator()), "a generator of its own"),
        (plain(num_workers=1, persistent_workers=True), "persistent_workers keep generators of their own"),
        (DataLoader([1, 2], batch_sampler=[[0], [1]]), "the order of a list may not"),
        (DataLoader([1, 2], sampler=[1, 0]), "the order of a list may not"),
        ([1, 2], "those of a list may not"),
    ],
)
def test_a_loader_whose_draws_cannot_be_repeated_is_refused(loader, why):
    with pytest.raises(InputError, match=why):
        refuse_loader(loader)


def test_avalanches_loaders_are_known(streams):
    data = streams["classes"].train_stream[0].dataset
    loader = TaskBalancedDataLoader(data, batch_size=4, num_workers=2, shuffle=True)
    refuse_loader(loader)
    assert loader_settings(loader) == {"num_workers": 2, "shuffle": True, "drop_last": False}
    with pytest.raises(InputError, match="persistent_workers"):
        refuse_loader(TaskBalancedDataLoader(data, batch_size=4, num_workers=2, persistent_workers=True))


def test_workers_that_persist_are_refused_before_training_unless_nothing_is_written_in_between(streams, tmp_path):
    options = {"num_workers": 1, "persistent_workers": True}
    training = Training(streams["classes"], training=options, evaluate=False)
    with pytest.raises(InputError, match="persistent_workers"):
        training.run(tmp_path / "refused")
    assert "before_training_iteration" not in training.killer.heard
