"""MTIL, X-TAIL and their relatives on miniature files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks.declaration import FAMILIES
from avalanche_vlm.errors import DataWarning, InputError

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable")


def words(text: str) -> list[str]:
    return text.split()


ORDER_I = words("Aircraft Caltech101 CIFAR100 DTD EuroSAT Flowers Food MNIST OxfordPet StanfordCars SUN397")
ORDER_II = words("StanfordCars Food MNIST OxfordPet Flowers SUN397 Aircraft Caltech101 DTD EuroSAT CIFAR100")


@pytest.fixture(scope="module")
def zscl(tmp_path_factory):
    return str(real_formats.torchvision_root(tmp_path_factory.mktemp("zscl")))


@pytest.fixture(scope="module")
def coop(tmp_path_factory):
    return str(real_formats.coop_root(tmp_path_factory.mktemp("coop")))


def raw(stream, number: int):
    """The samples beneath a task's data set."""
    dataset = stream[number].dataset
    while not hasattr(dataset, "images"):
        (dataset,) = dataset._datasets
    return dataset


def test_mtil_has_its_tasks_classes_and_prompts(zscl):
    first, second = (benchmarks.create("mtil", root=zscl, order=order) for order in ("I", "II"))
    assert list(first.task_names) == ORDER_I and list(second.task_names) == ORDER_II
    space = first.label_space
    assert space.visible == "task" and [len(of) for of in space.tasks] == [3, 4, 4, 2, 3, 3, 2, 10, 3, 2, 4]
    assert space.class_names[space.tasks[1][0]] == "off-center face"
    assert [len(of.templates) for of in space.templates] == [2, 34, 18, 8, 3, 1, 1, 1, 1, 9, 2]
    assert first.protocol["splits"] == "zscl" and first.protocol["sets"][-1] == "sun397"
    assert first.protocol["n_train"][1] == 16 and first.protocol["n_test"][1] == 4  # 80 and 20 percent
    only_first = benchmarks.create("mtil", root=zscl, prompts="first", order=["EuroSAT", "MNIST"])
    assert [of.templates for of in only_first.label_space.templates] == [
        ("a centered satellite photo of {}.",), ('a photo of the number: "{}".',)
    ]  # fmt: skip


def test_images_of_a_task_are_those_of_the_split(zscl):
    from avalanche_vlm.benchmarks.sources.dividing import seeded_split

    task = benchmarks.create("mtil", root=zscl, order=["EuroSAT"])
    files = sorted((of.parent.name, of.name) for of in real_formats.Path(zscl).glob("eurosat/2750/*/*.jpg"))
    train, test = seeded_split(30)
    for stream, rows in ((task.train_stream, train), (task.test_stream, test)):
        found = [(path.parent.name, path.name) for path in raw(stream, 0).images.paths]
        assert found == [files[row] for row in rows] and ("Forest", "Forest_10.jpg") in files
        assert raw(stream, 0).targets == [real_formats.LAND.index(of) for of, _ in found]


def test_mtil_with_coops_splits_is_another_benchmark(coop):
    found = benchmarks.create("mtil", root=coop, splits="coop")
    assert list(found.task_names) == [{"OxfordPet": "OxfordPets"}.get(of, of) for of in ORDER_I]
    assert found.protocol["splits"] == "coop" and found.protocol["n_test"][:2] == [6, 6]
    assert found.protocol["prompts"] == "first" and {len(of.templates) for of in found.label_space.templates} == {1}
    assert found.protocol["sets"][2] == "cifar100-diki" and found.protocol["n_train"][2] == 19  # 80 percent of 24
    assert found.protocol["sets"][7] == "mnist-diki" and found.protocol["n_train"][7] == 48
    assert any("20 percent of the training part are set apart" in note for note in found.data.notes)
    assert not any("tests with the mean of all" in note for note in found.data.notes)
    all_of_them = benchmarks.create("mtil", root=coop, splits="coop", prompts="all", order=["CIFAR100"])
    assert len(all_of_them.label_space.templates[0].templates) == 18
    assert benchmarks.describe("mtil")["accepts"]["prompts"].endswith("; first by itself with splits=coop")


def test_xtail_has_one_label_space_and_sixteen_shots(coop):
    found = benchmarks.create("xtail", root=coop)
    assert list(found.task_names) == [{"OxfordPet": "OxfordPets"}.get(of, of) for of in ORDER_I if of != "CIFAR100"]
    space = found.label_space
    assert space.visible == "union" and [t.templates for t in space.templates] == [("a photo of a {}.",)]
    names = space.class_names
    assert "River satellite location" in names and 'number: "0 - zero"' in names
    assert names.count("pizza") == 1 and sum(names.index("pizza") in of for of in space.tasks) == 2
    apart = benchmarks.create("xtail", root=coop, equal_names="apart").label_space
    assert {"pizza (Food)", "pizza (Caltech101)"} <= set(apart.class_names) and len(apart) == len(space) + 1
    for number, task in enumerate(found.task_names):
        targets = raw(found.train_stream, number).targets
        assert np.unique(targets, return_counts=True)[1].tolist() == [16] * len(space.tasks[number])
        assert len(found.data.chosen[task]) == len(targets)


def test_shots_are_drawn_from_the_seed_class_by_class(zscl):
    def drawn(seed, **options):
        return benchmarks.create("mtil", root=zscl, shots=2, seed=seed, **options)

    one, other = drawn(0), drawn(1)
    assert one.data.as_json()["chosen"] == drawn(0, order="II").data.chosen != other.data.chosen
    assert one.protocol["split_seed"] == 0 and one.protocol["shots"] == 2
    assert json.loads(json.dumps(one.data.as_json()))["chosen"]["Food"] == one.data.chosen["Food"]
    assert one.protocol["n_train"][1] == 8 and one.protocol["n_test"][1] == 4
    whole = benchmarks.create("mtil", root=zscl)
    assert whole.protocol["split_seed"] is None and "chosen" not in whole.data.as_json()
    pick = [raw(whole.train_stream, 6).images.paths[row] for row in one.data.chosen["Food"]]
    assert raw(one.train_stream, 6).images.paths == pick


def test_the_eight_sets_of_task_vectors_are_read_from_folders_and_from_torchvisions_files(tmp_path):
    real_formats.vision_eight(tmp_path)
    found = benchmarks.create("vision-8", root=str(tmp_path))
    assert list(found.task_names) == words("StanfordCars MNIST EuroSAT SVHN RESISC45 SUN397 DTD GTSRB")
    names, tasks = found.label_space.class_names, found.label_space.tasks
    called = {task: [names[one] for one in of] for task, of in zip(found.task_names, tasks, strict=True)}
    assert called["RESISC45"] == ["airplane", "sea ice"] and called["SUN397"] == ["abbey", "bistro indoor"]
    assert called["EuroSAT"] == ["annual crop land", "lake or sea"] and called["SVHN"] == list("023")
    assert called["GTSRB"][2] == "stop" and called["GTSRB"][0] == "red and white circle 20 kph speed limit"
    assert [len(of.templates) for of in found.label_space.templates] == [9, 1, 3, 1, 18, 2, 8, 3]
    assert found.protocol["n_test"][1:] == [10, 2, 6, 2, 2, 2, 3]
    signs = raw(found.test_stream, 7)
    assert [signs.targets.index(of) for of in tasks[7]] == [1, 2, 0]  # by the table, not by the order of the files
    other = benchmarks.create("vision-8", root=str(tmp_path), order=["GTSRB", "SVHN"])
    assert list(other.task_names) == ["GTSRB", "SVHN"] and raw(other.train_stream, 1).images.shape == (12, 3, 32, 32)
    with pytest.raises(InputError, match=r"has no eurosat/2750: .*SUN397 and DTD are not complete there either"):
        benchmarks.create("vision-8", root=str(tmp_path), splits="torchvision")


def test_the_ring_begins_where_it_is_told(coop):
    ring = words("Aircraft DTD EuroSAT Flowers Food OxfordPets StanfordCars UCF101")
    assert list(benchmarks.create("snd-8", root=coop).task_names) == ring
    assert list(benchmarks.create("snd-8", root=coop, order="3").task_names) == ring[3:] + ring[:3]


def test_pictures_are_read_by_the_model_and_by_clips_transform_without_one(zscl, random_model):
    of_model = benchmarks.create("mtil", root=zscl, model=random_model, order=["MNIST", "Food"])
    x, y, task = of_model.train_stream[1].dataset[0]
    assert x.shape == (3, 32, 32) and task == 1 and y in of_model.label_space.tasks[1]
    assert benchmarks.create("mtil", root=zscl, order=["MNIST"]).train_stream[0].dataset[0][0].shape == (3, 224, 224)


def test_data_of_another_size_are_said_to_be(zscl):
    with pytest.warns(DataWarning, match="figures are not comparable with published ones: Food-101 has 2 classes, not"):
        found = benchmarks.create("mtil", root=zscl, order=["Food"])
    assert any("75,750" in note for note in found.data.notes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": ["Food", "Cats"]}, "benchmark mtil has no task called 'Cats'; it has Aircraft, Caltech101"),
        ({"order": ["Food", "Food"]}, "order names task 'Food' more than once"),
        ({"shots": 0}, "benchmark mtil: shots is a whole number from 1, or none, not 0"),
        ({"splits": "ours"}, "benchmark mtil: splits is one of zscl, coop, not 'ours'"),
        (
            {"splits": "coop"},
            "has no fgvc_aircraft/variants.txt: it should be the list of .*; Caltech",
        ),
        ({"colour": 1}, "benchmark mtil has no option 'colour'; it has root, order, splits"),
        ({"label_space": "all"}, "label_space is one of task, seen, union, not 'all'"),
    ],
)
def test_unusable_input_is_one_sentence(zscl, options, sentence):
    with pytest.raises(InputError, match=sentence):
        benchmarks.create("mtil", root=zscl, **options)


def test_a_missing_and_a_damaged_image_are_named_or_left_out(tmp_path):
    real_formats.food101(tmp_path)
    (tmp_path / "food-101/images/pizza/0.jpg").unlink()
    broken = tmp_path / "food-101/images/pizza/51.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    options = {"root": str(tmp_path), "order": ["Food"]}
    with pytest.raises(InputError, match=r"there is no image file at .*pizza/0.jpg"):
        benchmarks.create("mtil", **options)
    found = benchmarks.create("mtil", **options, on_error="skip")
    assert len(found.data.skipped) == 2 and found.protocol["n_train"] == [5] and found.protocol["n_test"] == [5]
    assert benchmarks.create("mtil", **options, on_error="skip", check="none").protocol["n_test"] == [6]


def test_a_class_without_images_is_said(tmp_path):
    real_formats.food101(tmp_path)
    real_formats.write(tmp_path / "food-101/meta/test.json", json.dumps({"pizza": ["pizza/50"]}))
    found = benchmarks.create("mtil", root=str(tmp_path), order=["Food"])
    assert "1 class of task 'Food' without test images: 'apple pie'" in found.data.notes
    real_formats.write(tmp_path / "food-101/meta/train.json", json.dumps({"apple_pie": ["apple_pie/0"]}))
    with pytest.raises(InputError, match="class 'pizza' of task 'Food' has no training images"):
        benchmarks.create("mtil", root=str(tmp_path), order=["Food"])


def test_what_a_user_must_know_is_told():
    told = benchmarks.describe("mtil")
    assert told["family"] == "multi-domain" and told["source"] == "arXiv 2303.06628" and "ICCV" in told["citation"]
    food = told["data_sets"]["splits=zscl: food101"]
    assert food["files"]["ROOT/food-101/images"] == "the folder of 101 class folders" and food["classes"] == 101
    assert food["images"] == {"train": 75750, "test": 25250} and "research" in food["licence"]
    assert told["options"]["order"] == "I" and told["accepts"]["shots"].startswith("a whole number from 1, or none")
    assert benchmarks.list(family="multi-domain", kind="classes") == ["mtil", "xtail", "snd-8", "vision-8"]
    for wrong in ("cats", "retrieval"):
        with pytest.raises(InputError, match="family is one of picturebook, multi-domain"):
            benchmarks.list(family=wrong)
    assert all(benchmarks.list(family=family) for family in FAMILIES)
