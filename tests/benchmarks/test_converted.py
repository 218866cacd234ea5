"""Any benchmark of Avalanche's becomes one of ours, with its streams and samples as they were."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, benchmark_with_validation_stream, nc_benchmark, ni_benchmark
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark, new_instances_benchmark
from avalanche.benchmarks.scenarios.task_aware import task_incremental_benchmark
from avalanche.benchmarks.utils import (
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    as_classification_dataset,
)
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from avalanche.benchmarks.utils.transform_groups import DefaultTransformGroups
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms as T

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks import VLMBenchmark, from_avalanche, picturebook
from avalanche_vlm.errors import DataWarning, InputError

NAMES = ["red", "green", "blue", "white", "black", "grey"]


class Pictures(torch.utils.data.Dataset):
    """Flat grey PIL pictures whose grey value is their number, six classes in turn, and a count of those read."""

    def __init__(self, n=36, mode="RGB", transform=None):
        self.n, self.mode, self.transform = n, mode, transform
        self.targets = [i % 6 for i in range(n)]
        self.read = 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read += 1
        image = Image.new(self.mode, (20, 24), (index,) * 3 if self.mode == "RGB" else index)
        return (self.transform(image) if self.transform else image), self.targets[index]


def data(n=36, **options):
    return as_classification_dataset(Pictures(n, **options))


def numbers(experience, model):
    """Which pictures an experience has, from their grey values."""
    pixels = model.transforms.eval.to_uint8(torch.stack([x for x, *_ in experience.dataset.eval()]))
    return pixels[:, 0, 16, 16].tolist()


def test_nothing_is_read_and_everything_keeps_its_order(random_model):
    sources = Pictures(), Pictures(12)
    stock = nc_benchmark(*map(as_classification_dataset, sources), 3, task_labels=False, seed=3, shuffle=True)
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    assert isinstance(benchmark, VLMBenchmark) and sources[0].read == sources[1].read == 0
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1], [2]]
    assert benchmark.label_space.visible == "seen" and benchmark.label_space.class_names == tuple(NAMES)
    for name in ("train", "test"):
        for given, made in zip(stock.streams[name], benchmark.streams[name], strict=True):
            assert list(made.dataset.targets) == list(given.dataset.targets)
            assert sorted(made.classes_in_this_experience) == sorted(given.classes_in_this_experience)
            assert numbers(made, random_model) == [np.array(x)[0, 0, 0] for x, *_ in given.dataset]
            assert set(benchmark.label_space.tasks[made.current_experience]) == set(given.classes_in_this_experience)
    x, _, t = next(iter(DataLoader(benchmark.train_stream[1].dataset, 4)))
    assert x.shape == (4, 3, 32, 32) and set(t.tolist()) == {1}
    assert benchmark.protocol["n_train"] == [12, 12, 12] and benchmark.protocol["task_labels"] == "per experience"


def test_task_labels_of_the_benchmark_stay(random_model):
    stock = nc_benchmark(data(), data(12), 3, task_labels=True, seed=1)
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    assert benchmark.label_space.visible == "task" and benchmark.protocol["task_labels"] == "given"
    assert [e.task_labels for e in benchmark.test_stream] == [[0], [1], [2]]
    twice = task_incremental_benchmark(
        class_incremental_benchmark({"train": data(), "test": data(12)}, num_experiences=2, seed=0)
    )
    assert [e.task_labels for e in from_avalanche(twice, NAMES).train_stream] == [[0], [1]]


def test_class_incremental_benchmarks_without_task_labels(random_model):
    stock = class_incremental_benchmark({"train": data(), "test": data(12)}, num_experiences=3, seed=0)
    benchmark = from_avalanche(stock, NAMES, model=random_model, templates="a {} square")
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1], [2]]
    assert benchmark.label_space.templates[0].templates == ("a {} square",)
    seen = [e.classes_seen_so_far for e in benchmark.train_stream]
    assert seen[0] < seen[1] < seen[2] and len(seen[2]) == 6


@pytest.mark.parametrize("make", [ni_benchmark, new_instances_benchmark])
def test_new_instances_are_tested_on_the_whole_test_set(make, random_model):
    stock = (
        ni_benchmark(data(), data(12), 3, task_labels=False, seed=0, balance_experiences=True)
        if make is ni_benchmark
        else new_instances_benchmark(data(), data(12), 3, seed=0, balance_experiences=True)
    )
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == 3
    assert [len(e.dataset) for e in benchmark.test_stream] == [12, 12, 12]
    assert [e.task_labels for e in benchmark.test_stream] == [[0], [1], [2]]
    assert len(benchmark.streams["whole_test"]) == 1 and len(benchmark.streams["whole_test"][0].dataset) == 12
    assert all(len(task) == 6 for task in benchmark.label_space.tasks)


def test_a_complete_test_set_is_divided_by_the_classes_of_the_experiences(random_model):
    stock = class_incremental_benchmark({"train": data(), "test": data(12)}, class_order=range(6), num_experiences=3)
    whole = benchmark_from_datasets(train=[e.dataset for e in stock.train_stream], test=[data(12)])
    benchmark = from_avalanche(whole, NAMES, model=random_model)
    assert [sorted(e.classes_in_this_experience) for e in benchmark.test_stream] == [[0, 1], [2, 3], [4, 5]]
    assert numbers(benchmark.test_stream[1], random_model) == [2, 3, 8, 9]
    assert [sorted(task) for task in benchmark.label_space.tasks] == [[0, 1], [2, 3], [4, 5]]
    (rest,) = benchmark.streams["whole_test"]
    assert list(rest.dataset.targets_task_labels) == [y // 2 for y in rest.dataset.targets]


def test_validation_and_other_streams_stay(random_model):
    stock = nc_benchmark(data(), data(12), 3, task_labels=False, seed=3)
    with_valid = benchmark_with_validation_stream(stock, validation_size=0.25, shuffle=False)
    benchmark = from_avalanche(with_valid, NAMES, model=random_model)
    assert set(benchmark.streams) == {"train", "valid", "test"} and benchmark.valid_stream is benchmark.streams["valid"]
    assert benchmark.protocol["n_valid"] == [3, 3, 3] and benchmark.protocol["n_train"] == [9, 9, 9]
    assert [e.task_labels for e in benchmark.valid_stream] == [[0], [1], [2]]
    assert benchmark.valid_stream[1].label_space is benchmark.label_space


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_one_of_ours_comes_back_from_avalanches_hands(kind, random_model):
    make = picturebook.mtil_like if kind == "classes" else picturebook.pairs
    order = ["sketches", "night"] if kind == "classes" else None
    ours = make(order=order, n_train=8, n_test=4, n_held_out=5) if order else make(n_train=8, n_test=4, n_held_out=5)
    back = from_avalanche(benchmark_with_validation_stream(ours, validation_size=0.25))
    assert back.kind == kind and back.label_space == ours.label_space and back.task_names == ours.task_names
    assert back.held_out == ours.held_out and back.reference is ours.reference and back.name == ours.name
    assert back.protocol["n_train"] == [6] * len(ours.task_names) and back.protocol["n_valid"] == [2] * len(
        ours.task_names
    )
    for old, new in zip(ours.test_stream, back.test_stream, strict=True):
        assert torch.equal(*(torch.stack([getattr(s[0], "image", s[0]) for s in e.dataset.eval()]) for e in (old, new)))
    again = from_avalanche(benchmark_with_validation_stream(ours), model=random_model)
    x, *_ = again.train_stream[0].dataset[0]
    assert (x.image if kind == "pairs" else x).shape == (3, 32, 32)


def test_the_transforms_of_another_model_give_way_unless_they_are_kept(random_model):
    normalised = T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.2] * 3)])
    darker = DefaultTransformGroups((T.Lambda(lambda image: image.point(lambda value: value // 2)), None))
    stock = nc_benchmark(
        TaskAwareSupervisedClassificationDataset(
            [Pictures()],
            data_attributes=[DataAttribute(Pictures().targets, "targets"), TaskLabels([0] * 36)],
            frozen_transform_groups=darker,
        ),
        data(12),
        3,
        task_labels=False,
        fixed_class_order=list(range(6)),
        train_transform=normalised,
        eval_transform=normalised,
        shuffle=False,
    )
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    want = [i // 2 for i in range(36) if i % 6 < 2]  # what is frozen is part of the data
    assert sorted(numbers(benchmark.train_stream[0], random_model)) == sorted(want)
    kept = from_avalanche(stock, NAMES, model=random_model, keep_transforms=True)
    with pytest.raises(InputError, match="floating-point images have values from 0 to 1, not from -2"):
        kept.train_stream[0].dataset[0]
    assert kept.protocol["images"] == "the benchmark's, then the model's"
    as_it_is = from_avalanche(stock, NAMES)
    assert torch.equal(as_it_is.test_stream[0].dataset[0][0], stock.test_stream[0].dataset[0][0])
    inside = nc_benchmark(data(transform=normalised), data(12), 3, task_labels=False)
    with pytest.raises(InputError, match="as they were before they were normalised"):
        from_avalanche(inside, NAMES, model=random_model).train_stream[0].dataset[0]


@pytest.mark.parametrize(
    "images",
    [
        torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 3, 32, 32),
        torch.arange(12, dtype=torch.uint8).view(12, 1, 1).expand(12, 28, 28),
        torch.arange(12).view(12, 1, 1, 1).expand(12, 1, 28, 28) / 255,
        torch.arange(12).view(12, 1, 1, 1).expand(12, 3, 32, 32) / 255,
        torch.arange(12).view(12, 1, 1, 1).expand(12, 1, 32, 32),
    ],
)
def test_tensors_of_every_usual_kind(images, random_model):
    tensors = TensorDataset(images, torch.arange(12) % 6)
    tensors.targets = [i % 6 for i in range(12)]
    stock = nc_benchmark(*(as_classification_dataset(tensors) for _ in range(2)), 3, task_labels=False, seed=0)
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    found = sorted(n for e in benchmark.train_stream for n in numbers(e, random_model))
    assert found == list(range(12))


def test_grey_pictures_and_a_benchmark_of_grey_pictures(random_model):
    stock = nc_benchmark(data(mode="L"), data(12, mode="L"), 2, task_labels=False, seed=0)
    x, *_ = from_avalanche(stock, NAMES, model=random_model).train_stream[0].dataset[0]
    assert x.shape == (3, 32, 32)


def test_benchmarks_and_names_that_do_not_fit(random_model, tmp_path):
    stock = nc_benchmark(data(), data(12), 3, task_labels=False, seed=3)
    with pytest.raises(InputError, match="the classes of the benchmark have no names: give class_names"):
        from_avalanche(stock)
    with pytest.raises(InputError, match="class_names has 5 names, but the benchmark has the class id 5"):
        from_avalanche(stock, NAMES[:5])
    with pytest.raises(InputError, match="task_names has 2 names for 3 training experiences"):
        from_avalanche(stock, NAMES, task_names=["a", "b"])
    with pytest.raises(InputError, match="has no test stream; it has train"):
        from_avalanche(benchmark_from_datasets(train=[data()]), NAMES)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    assert from_avalanche(stock, tmp_path / "names.txt").label_space.class_names == tuple(NAMES)
    assert from_avalanche(stock, dict(enumerate(NAMES))).label_space.class_names == tuple(NAMES)
    with pytest.warns(DataWarning, match="look like numbers or ids"):
        from_avalanche(stock, list("012345"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        from_avalanche(stock, [*NAMES, "never met"], task_names=["a", "b", "c"])


def test_classes_that_are_only_tested_belong_to_no_task(random_model):
    stock = benchmark_from_datasets(train=[data().subset([0, 1, 6, 7])], test=[data(12)])
    benchmark = from_avalanche(stock, NAMES, model=random_model)
    assert benchmark.label_space.tasks == ((0, 1), (2, 3, 4, 5))
    assert list(benchmark.test_stream[0].dataset.targets_task_labels) == [0, 0, 1, 1, 1, 1] * 2


def test_it_stands_in_the_public_face():
    assert benchmarks.from_avalanche is from_avalanche and "from_avalanche" in benchmarks.__all__


@pytest.mark.parametrize("numbering", ["class_ids_from_zero_in_each_exp", "class_ids_from_zero_from_first_exp"])
@pytest.mark.parametrize("with_model", [True, False])
def test_names_are_for_the_ids_of_the_data_set_whatever_the_benchmark_numbers(numbering, with_model, random_model):
    model = random_model if with_model else None
    order = [4, 1, 5, 2, 0, 3]
    stock = nc_benchmark(data(), data(12), 3, task_labels=True, fixed_class_order=order, **{numbering: True})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", DataWarning)
        benchmark = from_avalanche(stock, NAMES, model=model)
    ambiguous = numbering == "class_ids_from_zero_from_first_exp"  # each name could be of either number
    assert [w.category for w in warned if w.category is DataWarning] == [DataWarning] * ambiguous
    assert benchmark.label_space.class_names == tuple(NAMES)
    assert benchmark.label_space.tasks == ((1, 4), (2, 5), (0, 3))
    assert any("numbered its classes anew" in note for note in benchmark.data.notes)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            assert set(experience.dataset.targets) == set(benchmark.label_space.tasks[experience.current_experience])
            for i, (x, y, *_) in enumerate(experience.dataset):  # the grey value is the picture's number
                number = numbers(experience, random_model)[i] if with_model else np.array(x)[0, 0, 0]
                assert y == experience.dataset.targets[i] == number % 6


def test_ids_from_zero_in_every_task_do_not_drop_names():
    stock = nc_benchmark(data(), data(12), 3, task_labels=True, seed=1, class_ids_from_zero_in_each_exp=True)
    unknown = benchmark_with_validation_stream(stock, validation_size=0.25)  # forgets the numbering
    with pytest.raises(InputError, match=r"start from 0 in each of the 3 tasks.* which of the 6 names are whose"):
        from_avalanche(unknown, NAMES)
    assert from_avalanche(unknown, NAMES[:2]).label_space.class_names == ("red", "green")
    every = nc_benchmark(data(), data(12), 3, task_labels=False, seed=3)
    benchmark = from_avalanche(every, [*NAMES, "never met"])
    assert benchmark.data.notes == ["1 class names are of no class of the benchmark, 'never met' first: left out"]
    by_id = from_avalanche(every, {**dict(enumerate(NAMES)), 9: "never met"})
    assert by_id.data.notes == benchmark.data.notes


def of_classes(classes, n=36):
    return data(n).subset([i for i in range(n) if i % 6 in classes])


def streams(train, test, **further):
    made = {"train": [of_classes(c) for c in train], "test": [of_classes(c, 12) for c in test], **further}
    return benchmark_from_datasets(**made)


@pytest.mark.parametrize(
    ("train", "test", "order"),
    [
        ([{0, 1}, {2, 3}], [{2, 3}, {0, 1}], [{0, 1}, {2, 3}]),
        ([{0, 1}, {1, 2}], [{1, 2}, {0, 1}], [{0, 1}, {1, 2}]),
        ([{0, 1, 2}, {3, 4, 5}], [{4}, {0, 1}], [{0, 1}, {4}]),
        ([{0, 1}, {2, 3}], [{4, 5}, {0, 1, 2, 3}], [{0, 1}, {2, 3}]),
        ([{0, 1}, {2, 3}], [{0, 1}, {0, 1, 2, 3}], [{0, 1}, {0, 1, 2, 3}]),
    ],
)
def test_the_columns_of_results_are_the_classes_of_the_training_experiences(train, test, order):
    benchmark = from_avalanche(streams(train, test), NAMES)
    assert [set(e.dataset.targets) for e in benchmark.test_stream] == order
    moved = sorted(map(sorted, order)) == sorted(map(sorted, test)) and order != test
    assert any("test stream has its experiences in another order" in note for note in benchmark.data.notes) == moved
    assert all(
        set(e.dataset.targets_task_labels) == {t} for t, e in enumerate(benchmark.test_stream) if order[t] == train[t]
    )


def test_a_test_stream_without_the_classes_of_an_experience_is_refused():
    with pytest.raises(InputError, match="no samples of the classes of training experience 1"):
        from_avalanche(streams([{0, 1}, {2, 3}], [{4, 5}, {0, 1}]), NAMES)


def test_a_training_experience_of_no_samples_is_named_and_not_the_test_stream():
    stock = streams([{0, 1}, {2, 3}], [{0, 1}, {2, 3}])
    parts = {name: [e.dataset for e in stream] for name, stream in stock.streams.items()}
    parts["train"][1] = parts["train"][1].subset([])
    with pytest.raises(InputError, match="training experience 1 has no samples"):
        from_avalanche(benchmark_from_datasets(**parts), NAMES)


def test_task_labels_of_the_benchmark_match_its_streams_too():
    stock = nc_benchmark(data(), data(12), 3, task_labels=True, seed=1, class_ids_from_zero_in_each_exp=True)
    turned = benchmark_from_datasets(
        train=[e.dataset for e in stock.train_stream], test=[e.dataset for e in stock.test_stream][::-1]
    )
    benchmark = from_avalanche(turned, NAMES[:2])
    assert [e.task_labels for e in benchmark.test_stream] == [[0], [1], [2]]


def test_negative_ids_empty_names_and_equal_names():
    tensors = TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([-1, 0, 1, 1]))
    tensors.targets = [-1, 0, 1, 1]
    stock = benchmark_from_datasets(**{s: [as_classification_dataset(tensors)] for s in ("train", "test")})
    with pytest.raises(InputError, match="whole numbers from 0, but the benchmark has the class id -1"):
        from_avalanche(stock, ["a", "b"])
    whole = benchmark_from_datasets(train=[of_classes({0, 1})], test=[of_classes({0, 1}, 12)])
    with pytest.raises(InputError, match="the class 0 has an empty name"):
        from_avalanche(whole, ["", "b"])
    with pytest.warns(DataWarning, match="the classes 0 and 1 have one name, 'a'"):
        assert len(from_avalanche(whole, ["a", "a"]).data.notes) == 1
