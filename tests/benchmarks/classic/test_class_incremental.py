"""The class-incremental family on miniature files, and its orders on the true number of classes."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks.classic import class_incremental
from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, wording
from avalanche_vlm.benchmarks.families.class_incremental import ClassIncremental
from avalanche_vlm.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable", "ignore:the class name")

FAMILY = ["cifar100", "tinyimagenet", "imagenet100", "imagenet1k", "imagenet-r", "cub200", "aircraft", "cars"]
FAMILY += ["food101", "ucf101", "sun397", "objectnet"]


def declared(name: str, classes: int) -> ClassIncremental:
    return ClassIncremental(
        name=name, summary="", source="", label_space="seen", splits={"official": name}, classes=classes, increment=1,
        orders={"fixed": (1, 0)}, prompts={},
    )  # fmt: skip


def test_the_family_is_complete():
    assert benchmarks.list(family="class-incremental") == FAMILY
    assert class_incremental.BENCHMARKS.get("cifar100").label_spaces[0] == "seen"


@pytest.mark.parametrize(
    ("name", "n", "digest"),
    [("order of CIFAR-100", 100, "62e36f48"), ("order of TinyImageNet", 200, "b0c978e9"),
     ("order of CIFAR-100 of RAPF", 100, "666b01e6"), ("order of CUB-200 of RAPF", 200, "ab4c71b3"),
     ("order of ImageNet-R of RAPF", 200, "e8ece42c"),
     ("numpy-1993", 100, "997a048a"), ("numpy-1993", 200, "1d364b99"), ("numpy-1993", 1000, "305571fb")],
)  # fmt: skip
def test_orders_are_the_published_ones(name, n, digest):
    order = wording(name) if name.startswith("order") else declared("x", n).ordered(name)
    assert hashlib.sha256(",".join(map(str, order)).encode()).hexdigest().startswith(digest)
    assert sorted(order) == list(range(n))


def test_orders_that_are_drawn_are_those_of_the_generators():
    state = np.random.get_state()[1].copy()
    assert declared("x", 300).ordered("numpy-1993")[:5] == [169, 221, 146, 296, 92]
    assert np.array_equal(np.random.get_state()[1], state)
    theirs = list(range(200))
    random.Random(3).shuffle(theirs)
    assert declared("x", 200).ordered("python-3") == theirs and declared("x", 4).ordered("natural") == [0, 1, 2, 3]
    assert declared("x", 2).ordered("fixed") == [1, 0] and declared("x", 3).ordered((2, 0, 1)) == [2, 0, 1]
    for wrong, sentence in (("numpy", "class_order is one of fixed, natural, numpy-SEED, python-SEED, or class ids"),
                            ((0, 0, 1), "class_order has each of 0 to 2 once")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            declared("x", 3).ordered(wrong)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, [10] * 10), ({"increment": 5}, [5] * 20), ({"increment": 2}, [2] * 50), ({"base": 50}, [50] + [10] * 5),
     ({"base": 50, "increment": 5}, [50] + [5] * 10)],
)  # fmt: skip
def test_cifar100_has_its_steps(cifar, options, sizes):
    found = benchmarks.create("cifar100", root=cifar, **options)
    space = found.label_space
    assert [len(of) for of in space.tasks] == sizes and space.visible == "seen" and len(space) == 100
    names = DATASETS.get("cifar100").load(real_formats.Path(cifar)).names
    assert list(space.class_names) == [names[number] for number in wording("order of CIFAR-100")]
    assert space.templates[0].templates == ("a bad photo of a {}.",)
    assert found.protocol["n_train"] == [2 * size for size in sizes] and found.task_names[0] == "classes 1"
    assert found.protocol["class_order"] == "continual-clip" and found.protocol["increment"] == options.get(
        "increment", 10
    )


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    real_formats.cifar100(root, classes=100, train=2, test=1)
    return str(root)


def test_a_task_has_the_pictures_of_its_classes(cifar):
    found = benchmarks.create("cifar100", root=cifar, class_order="numpy-1993", prompts="own", label_space="union")
    whole = DATASETS.get("cifar100").load(real_formats.Path(cifar))
    assert len(found.label_space.templates[0].templates) == 18 and found.label_space.visible == "union"
    data = found.train_stream[3].dataset
    order = [68, 56, 78, 8, 23]
    names = [whole.names[number] for number in order]
    assert list(found.label_space.class_names[:5]) == names
    while not hasattr(data, "images"):
        (data,) = data._datasets
    for picture, y in zip(data.images, data.targets, strict=True):
        number = whole.names.index(found.label_space.class_names[y])
        same = whole.parts["train"].images[whole.parts["train"].labels == number]
        assert any(np.array_equal(picture.permute(1, 2, 0).numpy(), one) for one in same)


@pytest.mark.parametrize("name", real_formats.CLASS_INCREMENTAL)
def test_each_is_read_from_its_files(tmp_path, name):
    make, options, tasks = real_formats.CLASS_INCREMENTAL[name]
    with pytest.raises(InputError, match=r"has no .*: it should be "):
        benchmarks.create(name, root=str(tmp_path))
    make(tmp_path)
    found = benchmarks.create(name, root=str(tmp_path), **options)
    assert len(found.task_names) == tasks and found.protocol["increment"] == options["increment"]
    x, y, _ = found.test_stream[tasks - 1].dataset[0]
    assert x.shape == (3, 224, 224) and y in found.label_space.tasks[tasks - 1]


@pytest.mark.parametrize("name", ["cub", "aircraft", "cars", "food101", "ucf101", "sun"])
def test_prepared_folders_are_the_default(tmp_path, name):
    real_formats.folders(tmp_path, name, ["first_one", "second"])
    benchmark = {"cub": "cub200", "sun": "sun397"}.get(name, name)
    found = benchmarks.create(benchmark, root=str(tmp_path), increment=1, class_order="natural")
    assert list(found.label_space.class_names) == ["first one", "second"] and found.protocol["splits"] == "folders"


def test_splits_of_imagenet_r_are_part_of_the_protocol(tmp_path):
    real_formats.imagenet_r(tmp_path)
    two = [benchmarks.create("imagenet-r", root=str(tmp_path), increment=4, splits=of) for of in ("coda", "rapf")]
    assert [of.protocol["splits"] for of in two] == ["coda", "rapf"]
    assert [of.protocol["class_order"] for of in two] == ["natural", "rapf"]
    order = [one for one in wording("order of ImageNet-R of RAPF") if one < 4]  # of the four classes that are there
    assert [two[0].label_space.class_names[one] for one in order] == list(two[1].label_space.class_names)
    assert [of.protocol["sets"] for of in two] == [["imagenet-r-coda"], ["imagenet-r-rapf"]]


@pytest.mark.parametrize(
    ("options", "prompts", "order", "sentences"),
    [
        ({}, "photo", "natural", ["a photo of a {}."]),
        ({"splits": "rapf"}, "rapf", "rapf", ["a good photo of a {}."]),
        ({"splits": "folders"}, "own", "numpy-1993", wording("prompts for ImageNet")),
        ({"splits": "folders", "prompts": "photo", "class_order": "natural"}, "photo", "natural", ["a photo of a {}."]),
    ],
)
def test_a_split_brings_its_papers_prompts_and_order(tmp_path, options, prompts, order, sentences):
    real_formats.imagenet_r(tmp_path)
    found = benchmarks.create("imagenet-r", root=str(tmp_path), increment=4, **options)
    assert (found.protocol["prompts"], found.protocol["class_order"]) == (prompts, order)
    assert list(found.label_space.templates[0].templates) == list(sentences)
    accepts = benchmarks.describe("imagenet-r")["accepts"]
    assert accepts["class_order"].endswith("; numpy-1993 by itself with splits=folders")


def test_what_is_said_of_a_split_is_said_of_it_alone(tmp_path):
    splits = {"cub200": None, "aircraft": "official", "cars": "official", "food101": "official", "ucf101": "coop",
              "sun397": "seeded", "objectnet": None}  # fmt: skip
    for name, split in splits.items():
        notes = benchmarks.describe(name)["notes"]
        cut = [note for note in notes if "classes are taken" in note]
        assert all(note.startswith(f"with splits={split} ") for note in notes) and bool(notes) == bool(split)
        assert bool(cut) == (name in ("cars", "food101", "ucf101", "sun397"))
    real_formats.folders(tmp_path, "cars", ["a", "b"])
    real_formats.stanford_cars(tmp_path)
    for of in ("folders", "official"):
        notes = benchmarks.create("cars", root=str(tmp_path), increment=1, splits=of).data.notes
        assert ("first 100 of the 196" in " ".join(notes)) == (of == "official")
    with pytest.raises(InputError, match="splits is one of folders, seeded, not 'official'"):
        benchmarks.create("sun397", root=str(tmp_path), splits="official")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"increment": 7}, "100 classes cannot be a task of 7 and further ones of 7"),
        ({"base": 55}, "100 classes cannot be a task of 55 and further ones of 10"),
        ({"increment": 0}, "increment is a whole number from 1 to 100, not 0"),
        ({"class_order": "numpy-x"}, "class_order is one of continual-clip, rapf, natural, numpy-SEED, python-SEED"),
        ({"class_order": [1, 2]}, "class_order has each of 0 to 99 once"),
        ({"class_order": [0.5]}, "class_order is continual-clip, rapf, natural, .* or class ids in an order, not"),
        ({"prompts": "mine"}, "prompts is one of continual-clip, rapf, own, plain, not 'mine'"),
    ],
)
def test_unusable_input_is_one_sentence(cifar, options, sentence):
    with pytest.raises(InputError, match=sentence):
        benchmarks.create("cifar100", root=cifar, **options)
