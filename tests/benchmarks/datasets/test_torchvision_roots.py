"""Each data set of MTIL in its real format, against torchvision's own reading of the same files."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import real_formats
import torch
import torchvision.datasets as tv

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, refuse_missing
from avalanche_vlm.benchmarks.sources.dividing import seeded_split
from avalanche_vlm.errors import InputError

CLASSES = {
    "aircraft": (tv.FGVCAircraft, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "caltech101": (tv.Caltech101, {"all": {}}),
    "cifar100": (tv.CIFAR100, {"train": {"train": True}, "test": {"train": False}}),
    "dtd": (tv.DTD, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "eurosat": (tv.EuroSAT, {"all": {}}),
    "flowers": (tv.Flowers102, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "food101": (tv.Food101, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "mnist": (tv.MNIST, {"train": {"train": True}, "test": {"train": False}}),
    "oxford-pet": (tv.OxfordIIITPet, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "stanford-cars": (tv.StanfordCars, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "sun397": (tv.SUN397, {"all": {}}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return real_formats.torchvision_root(tmp_path_factory.mktemp("torchvision"))


@pytest.fixture(autouse=True)
def _any_content(monkeypatch):
    """Torchvision compares some files with the digests of the published ones."""
    for module in (tv.flowers102, tv.cifar):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).exists())


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_read_as_torchvision_reads_it(root, name):
    found, (make, parts) = DATASETS.get(name).load(root), CLASSES[name]
    assert set(found.parts) == set(parts)
    for part, arguments in parts.items():
        theirs, ours = make(root, **arguments), found.parts[part]
        samples = [theirs[i] for i in range(len(theirs))]
        if name == "sun397":  # they list it as the disk does
            samples = [samples[i] for i in np.argsort([str(p) for p in theirs._image_files])]
        assert [label for _, label in samples] == ours.labels.tolist()
        for (image, _), mine in zip(samples, ours.images, strict=True):
            assert np.array_equal(np.asarray(image.convert("RGB")), _rgb(mine))


def _rgb(image) -> np.ndarray:
    array = np.asarray(image)
    return np.stack([array] * 3, -1) if array.ndim == 2 else array


def test_names_are_those_of_the_protocol(root):
    named = {name: list(DATASETS.get(name).load(root).names) for name in CLASSES}
    assert named["aircraft"] == ["707-320", "A340-200", "Cessna 172_x"]
    assert named["caltech101"] == ["off-center face", "leopard", "accordion", "head of a  crocodile"]
    assert named["cifar100"][1] == "aquarium fish" and named["food101"] == ["apple pie", "pizza"]
    assert named["eurosat"] == ["annual crop land", "forest", "brushland or shrubland"]
    assert named["flowers"] == ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"]
    assert named["mnist"][0] == "0 - zero" and named["mnist"] == tv.MNIST.classes
    assert named["oxford-pet"] == ["Abyssinian", "American Bulldog", "Bengal"]
    assert named["stanford-cars"] == ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    assert named["sun397"] == ["abbey", "baseball field", "bistro/indoor", "bistro/outdoor"]


@pytest.mark.parametrize("missing", real_formats.LAND)
def test_classes_of_a_part_of_a_data_set_have_their_own_names(tmp_path, missing):
    real_formats.eurosat(tmp_path)
    shutil.rmtree(tmp_path / "eurosat/2750" / missing)
    named = dict(zip(real_formats.LAND, ("annual crop land", "forest", "brushland or shrubland"), strict=True))
    found = DATASETS.get("eurosat").load(tmp_path)
    assert dict(zip(found.keys, found.names, strict=True)) == {k: v for k, v in named.items() if k != missing}


def test_names_of_land_are_by_all_folders_of_it():
    land = DATASETS.get("eurosat")
    assert list(land.renamed) == list(land.keys) == sorted(land.keys) and len(land.keys) == land.classes == 10
    assert land.renamed["SeaLake"] == "lake or sea" and land.renamed["PermanentCrop"] == "permanent crop land"


def test_what_is_said_of_splits_is_true():
    notes = {name: " ".join(DATASETS.get(name).notes) for name in ("caltech101", "eurosat", "sun397")}
    assert "no split is published" in notes["caltech101"] and "no split is published" in notes["eurosat"]
    assert "no split is published" not in notes["sun397"] and "publish ten partitions" in notes["sun397"]
    assert all("seed 42" in note for note in notes.values())


@pytest.mark.parametrize(("name", "train"), [("cifar100", 24), ("mnist", 20)])
def test_diki_sets_a_fifth_of_the_training_part_apart(root, name, train):
    whole, found = (DATASETS.get(of).load(root).parts for of in (name, f"{name}-diki"))
    assert [len(found[part]) for part in ("train", "valid", "test")] == [4 * train // 5, train - 4 * train // 5,
                                                                         len(whole["test"])]  # fmt: skip
    pictures = sorted(one.tobytes() for part in ("train", "valid") for one in found[part].images)
    assert pictures == sorted(one.tobytes() for one in whole["train"].images)
    sizes = DATASETS.get(f"{name}-diki").sizes
    assert sizes["train"] + sizes["valid"] == DATASETS.get(name).sizes["train"] == 5 * sizes["valid"]


def test_lists_of_names_and_prompts_are_complete():
    flowers = DATASETS.get("flowers").renamed.values()
    assert [a for a, b in zip(flowers, tv.Flowers102.classes, strict=True) if a != b] == ["pink-yellow dahlia"]
    numbers = {name: len(DATASETS.get(name).prompts) for name in CLASSES}
    assert numbers == {
        "aircraft": 2, "caltech101": 34, "cifar100": 18, "dtd": 8, "eurosat": 3, "flowers": 1, "food101": 1, "mnist": 1,
        "oxford-pet": 1, "stanford-cars": 9, "sun397": 2,
    }  # fmt: skip
    assert sum(DATASETS.get(name).classes for name in CLASSES) == 1201
    sizes = [DATASETS.get(name).sizes for name in CLASSES]
    assert sum(of.get("train", int(0.8 * of.get("all", 0))) for of in sizes) == 319_352
    assert sum(of.get("test", of.get("all", 0) - int(0.8 * of.get("all", 0))) for of in sizes) == 97_209


@pytest.mark.parametrize(
    ("n", "train", "test"),
    [
        (8677, [8512, 5748, 7753], [6301, 3455, 7205]),
        (27000, [4542, 1781, 1366], [5805, 24544, 2869]),
        (108754, [57128, 82947, 84286], [8201, 36443, 50546]),
    ],
)
def test_the_split_is_the_published_one(n, train, test):
    first, second = seeded_split(n)
    assert (first[:3], second[:3]) == (train, test) and len(first) == int(0.8 * n)
    generator = torch.Generator().manual_seed(42)
    halves = torch.utils.data.random_split(range(n), [int(0.8 * n), n - int(0.8 * n)], generator)
    assert [list(half.indices) for half in halves] == [first, second]


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_missing_is_named(root, name, tmp_path):
    of = DATASETS.get(name)
    for lost in of.needs:
        here = tmp_path / lost.replace("/", "_")
        for path in of.needs:
            if path != lost:
                (here / path).parent.mkdir(parents=True, exist_ok=True)
                (here / path).symlink_to((root / path).resolve())
        if not here.exists():
            here.mkdir()
        inside = any(other != lost and (other.startswith(f"{lost}/") or lost.startswith(f"{other}/"))
                     for other in of.needs)  # fmt: skip
        if inside:
            continue
        with pytest.raises(InputError) as error:
            of.load(here)
        assert str(error.value) == f"{here} has no {lost}: it should be {of.needs[lost]} ({of.summary})"
    with pytest.raises(InputError, match=r"there is no folder at .*nowhere: it should hold"):
        refuse_missing([of], tmp_path / "nowhere")


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("/nowhere/at/all"),))


def test_a_pickle_cannot_run_anything(tmp_path):
    real_formats.cifar100(tmp_path)
    (tmp_path / "cifar-100-python/train").write_bytes(pickle.dumps({"data": Harmful(), "fine_labels": []}))
    with pytest.raises(InputError, match="cifar-100-python/train is not one of CIFAR's files: it asks for "):
        DATASETS.get("cifar100").load(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "sentence"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "1 none such", "of the class 'none such'"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "12345", "line 1: '12345' has fewer than 2"),
        ("food101", "food-101/meta/test.json", "[", "food-101/meta/test.json is not JSON"),
        ("food101", "food-101/meta/test.json", "[1]", "is no object from class names"),
        (
            "oxford-pet",
            "oxford-iiit-pet/annotations/test.txt",
            "a_1 x 1 1",
            "the class of a_1 is a number from 1, not x",
        ),
        ("mnist", "MNIST/raw/t10k-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x09", "is cut"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", real_formats.idx(np.zeros(3)), "10 pictures, .* 3 labels"),
        ("flowers", "flowers-102/setid.mat", b"no matlab", "is no MATLAB file that can be read"),
        ("cifar100", "cifar-100-python/meta", pickle.dumps({}), "has no class names under 'fine_label_names'"),
        ("cifar100", "cifar-100-python/test", pickle.dumps([1]), "is not one of CIFAR's files"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, name, file, content, sentence):
    real_formats.TORCHVISION[name](tmp_path)
    real_formats.write(tmp_path / file, content)
    with pytest.raises(InputError, match=sentence):
        DATASETS.get(name).load(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("cifar100", "cifar-100-python/meta"),
        ("flowers", "flowers-102/setid.mat"),
        ("food101", "food-101/meta/test.json"),
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_told_at_once(tmp_path, name, file):
    real_formats.TORCHVISION[name](tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with pytest.raises(InputError, match=f"{file} is no regular file, but a pipe"):
        DATASETS.get(name).load(tmp_path)


def test_mnist_may_be_zipped_and_unpacks_to_no_more_than_it_says(tmp_path, root):
    real_formats.mnist(tmp_path)
    for path in (tmp_path / "MNIST/raw").iterdir():
        (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    zipped, plain = (DATASETS.get("mnist").load(of) for of in (tmp_path, root))
    assert all(np.array_equal(zipped.parts[of].images, plain.parts[of].images) for of in ("train", "test"))
    labels = real_formats.idx(np.zeros(10)) + b"\0" * 10**7
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is cut, or has more than its header says: 10 bytes"):
        DATASETS.get("mnist").load(tmp_path)
