"""A user's folder of pictures becomes a stream, or one sentence says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_files import picture, raw, save, transform, truncate
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import image_folder_stream
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two tasks, two classes each, five pictures per class, of mixed sizes and kinds."""
    root = tmp_path / "animals"
    for t, task in enumerate(("task10", "task2")):
        for c, name in enumerate(("house_cat", "dog")):
            for i in range(5):
                suffix = ".png" if i % 2 else ".JPG"
                save(root / task / name / f"{i}{suffix}", picture(10 * t + i, 20 + 9 * i, 50 - 4 * c))
    save(root / "task2" / "dog" / "grey.png", picture(7).convert("L"))
    (root / "task2" / "dog" / "notes.txt").write_text("ignored")
    (root / "task2" / "dog" / ".hidden.jpg").write_text("ignored")
    return root


def all_paths(benchmark) -> dict[str, list[str]]:
    streams = {"train": benchmark.train_stream, "test": benchmark.test_stream}
    return {split: [str(p) for e in stream for p in raw(e.dataset).images.paths] for split, stream in streams.items()}


def test_tasks_classes_and_labels(folder):
    benchmark = image_folder_stream(folder, **TRANSFORMS)
    assert benchmark.task_names == ("task2", "task10")  # natural order
    assert benchmark.label_space.class_names == ("dog", "house cat", "dog", "house cat")
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1]]
    x, y, t = next(iter(DataLoader(benchmark.train_stream[1].dataset, batch_size=4)))
    assert x.shape == (4, 3, 32, 32) and set(y.tolist()) <= {2, 3} and set(t.tolist()) == {1}
    assert benchmark.protocol["n_train"] == [9, 8] and benchmark.protocol["n_test"] == [2, 2]


def test_the_split_is_disjoint_complete_and_seeded(folder):
    paths = all_paths(image_folder_stream(folder, **TRANSFORMS))
    assert not set(paths["train"]) & set(paths["test"])
    assert len(paths["train"]) + len(paths["test"]) == 21
    assert paths == all_paths(image_folder_stream(folder, **TRANSFORMS))
    assert paths != all_paths(image_folder_stream(folder, seed=1, **TRANSFORMS))


def test_the_union_of_labels_merges_equal_names(folder):
    benchmark = image_folder_stream(folder, label_space="union", **TRANSFORMS)
    assert benchmark.label_space.class_names == ("dog", "house cat")
    assert (
        [e.task_labels for e in benchmark.train_stream] == [e.task_labels for e in benchmark.test_stream] == [[0], [1]]
    )


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for i in range(n):
            save(tmp_path / split / "pets" / "cat" / f"{i}.png", picture(i))
    benchmark = image_folder_stream(tmp_path, **TRANSFORMS)
    assert benchmark.protocol["split"] == "folders"
    assert (benchmark.protocol["n_train"], benchmark.protocol["n_test"]) == ([3], [2])


def test_a_corrupt_picture_is_named_or_skipped_and_counted(folder):
    bad = truncate(save(folder / "task2" / "dog" / "bad.jpg", picture(3, 300, 300)))
    with pytest.raises(InputError, match=r"bad\.jpg"):
        image_folder_stream(folder, **TRANSFORMS)
    benchmark = image_folder_stream(folder, on_error="skip", **TRANSFORMS)
    assert len(benchmark.data.skipped) == 1 and str(bad) in benchmark.data.skipped[0]
    assert benchmark.protocol["n_train"][0] + benchmark.protocol["n_test"][0] == 11


def test_a_class_with_one_picture(folder):
    save(folder / "task2" / "newt" / "only.png")
    with pytest.raises(InputError, match="class 'newt' of task 'task2' has one usable image"):
        image_folder_stream(folder, **TRANSFORMS)
    benchmark = image_folder_stream(folder, on_error="skip", **TRANSFORMS)
    assert "newt" not in benchmark.label_space.class_names and len(benchmark.data.skipped) == 1


def test_a_class_that_is_trained_and_not_tested_is_said(tmp_path):
    for part, classes in (("train", ("cat", "dog", "owl", "yak")), ("test", ("dog",))):
        for number, name in enumerate(classes):
            save(tmp_path / part / name / "0.png", picture(10 * number + len(part)))
    names = {"cat": "a cat", "dog": "d", "owl": "o", "yak": "y"}
    found = image_folder_stream(tmp_path, class_names=names, **TRANSFORMS).data.notes
    assert "3 classes of task 'all' without test images: 'a cat', 'o', 'y'" in found
    save(tmp_path / "test" / "cat" / "0.png", picture(101))
    save(tmp_path / "test" / "owl" / "0.png", picture(102))
    found = image_folder_stream(tmp_path, **TRANSFORMS).data.notes
    assert found == ["1 class of task 'all' without test images: 'yak'"]


def test_of_many_tasks_with_classes_that_are_not_tested_three_are_named(tmp_path):
    for task in range(6):
        for part, classes in (("train", ("cat", "dog")), ("test", ("dog", "cat")[: 1 + (task == 5)])):
            for number, name in enumerate(classes):
                save(tmp_path / f"day{task}" / part / name / "0.png", picture(100 * task + 10 * number + len(part)))
    (found,) = image_folder_stream(tmp_path, **TRANSFORMS).data.notes
    named = "; ".join(f"1 class of task 'day{n}' without test images: 'cat'" for n in range(3))
    assert found == f"{named}; and 2 more tasks have such classes"


def test_folders_that_are_no_stream(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder at"):
        image_folder_stream(tmp_path / "nowhere", **TRANSFORMS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no task folders"):
        image_folder_stream(tmp_path / "empty", **TRANSFORMS)
    with pytest.raises(InputError, match="there is no task called 'task3'"):
        image_folder_stream(folder, order=["task3"], **TRANSFORMS)
    with pytest.raises(InputError, match="test_fraction lies between 0 and 1"):
        image_folder_stream(folder, test_fraction=1.0, **TRANSFORMS)
    with pytest.raises(InputError, match="on_error is raise or skip"):
        image_folder_stream(folder, on_error="ignore", **TRANSFORMS)
    (folder / "task2" / "fish").mkdir()
    with pytest.raises(InputError, match=r"class folder .*fish has no images"):
        image_folder_stream(folder, **TRANSFORMS)
    save(folder / "task10" / "stray.png")
    with pytest.raises(InputError, match=r"stray\.png lies directly in a task folder"):
        image_folder_stream(folder, order=["task10"], **TRANSFORMS)


def test_the_order_of_tasks_does_not_move_pictures_between_train_and_test(folder):
    natural = all_paths(image_folder_stream(folder, **TRANSFORMS))
    turned = all_paths(image_folder_stream(folder, order=["task10", "task2"], **TRANSFORMS))
    assert turned != natural and sorted(turned["test"]) == sorted(natural["test"])
    alone = all_paths(image_folder_stream(folder, order=["task10"], **TRANSFORMS))
    assert set(alone["test"]) < set(natural["test"])


def test_options_that_make_no_sense(folder):
    with pytest.raises(InputError, match="order names task 'task2' more than once"):
        image_folder_stream(folder, order=["task2", "task2"], **TRANSFORMS)
    with pytest.raises(InputError, match="seed is a whole number from 0, not -1"):
        image_folder_stream(folder, seed=-1, **TRANSFORMS)


def test_a_broken_link_is_named_and_odd_digits_sort(folder):
    save(folder / "task2" / "dog" / "²1.png")  # a digit that is no decimal
    link = folder / "task2" / "dog" / "gone.png"
    link.symlink_to(folder / "elsewhere.png")
    with pytest.raises(InputError, match=r"there is no image file at .*gone\.png"):
        image_folder_stream(folder, **TRANSFORMS)


def test_drafts_are_for_the_models_input_and_in_the_protocol(folder):
    sized = ImageTransform(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    drafted = image_folder_stream(folder, train_transform=sized, eval_transform=sized, jpeg_draft=True)
    assert drafted.protocol["jpeg_draft"] == 32
    assert all(raw(experience.dataset).images.draft == 32 for experience in drafted.train_stream)
    plain = image_folder_stream(folder, train_transform=sized, eval_transform=sized)
    assert "jpeg_draft" not in plain.protocol and raw(plain.test_stream[0].dataset).images.draft is None
    with pytest.raises(InputError, match="the transform says none: leave it out"):
        image_folder_stream(folder, **TRANSFORMS, jpeg_draft=True)
