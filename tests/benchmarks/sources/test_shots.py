"""Few shots of a user's own data: class by class, from the seed, with the places in the benchmark's report."""

from __future__ import annotations

from collections import Counter

import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import image_folder_stream, table_stream
from avalanche_vlm.errors import InputError

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shots")
    for number in range(24):
        task, label = ("a", "b")[number // 12], ("cat", "dog")[number % 2]
        save(root / "images" / task / label / f"{number}.png", picture(number, 20, 30))
    rows = [f"{path.relative_to(root / 'images')},{path.parent.name},{path.parts[-3]}" for path in
            sorted((root / "images").rglob("*.png"))]  # fmt: skip
    (root / "images.csv").write_text("\n".join(["image,label,task", *rows]))
    return root


def files(stream, number: int) -> list[str]:
    return [path.name for path in raw(stream[number].dataset).images.paths]


@pytest.fixture(params=["folder", "table"])
def build(request, folder):
    def built(**options):
        if request.param == "folder":
            return image_folder_stream(folder / "images", **TRANSFORMS, **options)
        return table_stream(folder / "images.csv", image_root=folder / "images", **TRANSFORMS, **options)

    return built


def test_each_class_of_each_task_has_as_many_and_tests_stay(build):
    whole, few = build(), build(shots=2)
    assert few.protocol["shots"] == 2 and few.protocol["n_train"] == [4, 4] and "shots" not in whole.protocol
    assert few.protocol["n_test"] == whole.protocol["n_test"] and files(few.test_stream, 1) == files(
        whole.test_stream, 1
    )
    for number, task in enumerate(few.task_names):
        places = few.data.as_json()["chosen"][task]
        assert files(few.train_stream, number) == [files(whole.train_stream, number)[place] for place in places]
        assert set(Counter(raw(few.train_stream[number].dataset).targets).values()) == {2}
    assert build(shots=2).data.chosen == few.data.chosen != build(shots=2, seed=1).data.chosen
    assert whole.data.chosen == {}


def test_the_order_of_the_tasks_changes_nothing(build):
    assert build(shots=1, order=["b", "a"]).data.chosen == build(shots=1).data.chosen
    assert build(shots=1, order=["b"]).data.chosen["b"] == build(shots=1).data.chosen["b"]


def test_a_class_with_fewer_images_has_some_more_than_once(build):
    many = build(shots=9)
    assert many.protocol["n_train"] == [18, 18] and len(set(files(many.train_stream, 0))) < 18


def test_classes_that_are_divided_among_tasks_are_drawn_in_these(folder):
    found = image_folder_stream(folder / "images" / "a", shots=1, split_classes=2, class_order="sorted", **TRANSFORMS)
    assert found.protocol["n_train"] == [1, 1] and set(found.data.chosen) == {"classes 1", "classes 2"}


@pytest.mark.parametrize("shots", [0, -1, True, 1.5])
def test_a_number_that_is_none_is_one_sentence(build, shots):
    with pytest.raises(InputError, match="shots is a whole number from 1, the training images per class, not"):
        build(shots=shots)


def test_captions_have_no_classes_to_draw_from(folder, tmp_path):
    (folder / "captions.csv").write_text("image,caption\nimages/a/cat/0.png,a cat\nimages/a/cat/2.png,two cats\n")
    with pytest.raises(InputError, match=r"shots \(--shots\) does not apply to .*captions.csv"):
        table_stream(folder / "captions.csv", shots=1, tokenizer=lambda texts: texts, **TRANSFORMS)
