"""Folders as other libraries lay them out: splits, classes without tasks, nested pictures, names that are alike."""

from __future__ import annotations

import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import image_folder_stream
from avalanche_vlm.errors import InputError

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}


def lay(root, *folders, n=3, suffix=".png"):
    for number, folder in enumerate(folders):
        for i in range(n):
            save(root / folder / f"{i}{suffix}", picture(10 * number + i))
    return root


def names(stream) -> list[set[str]]:
    """The folders of each experience's pictures."""
    return [{path.parent.name for path in raw(e.dataset).images.paths} for e in stream]


def grid(splits, rest):
    return [f"{split}/{name}" for split in splits for name in rest]


@pytest.mark.parametrize("valid", ["val", "valid", "Validation", "dev"])
def test_train_val_and_test_folders_of_classes_are_one_task_with_a_validation_stream(tmp_path, valid):
    root = lay(tmp_path, *grid(["train", valid, "test"], ["cat", "dog"]))
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.task_names == ("all",) and benchmark.label_space.class_names == ("cat", "dog")
    assert set(benchmark.streams) == {"train", "valid", "test"}
    counts = {name: benchmark.protocol[f"n_{name}"] for name in ("train", "valid", "test")}
    assert counts == {"train": [6], "valid": [6], "test": [6]} and benchmark.protocol["split"] == "folders"
    for name, folder in (("train", "train"), ("valid", valid), ("test", "test")):
        paths = raw(benchmark.streams[name][0].dataset).images.paths
        assert {path.parent.parent.name for path in paths} == {folder}
    assert [e.label_space is benchmark.label_space for e in benchmark.streams["valid"]] == [True]


def test_without_test_the_validation_folder_is_tested_and_that_is_said(tmp_path):
    benchmark = image_folder_stream(lay(tmp_path, *grid(["train", "val"], ["cat", "dog"])), **TRANSFORMS)
    assert set(benchmark.streams) == {"train", "test"} and benchmark.protocol["n_test"] == [6]
    assert any("tested on its validation samples" in note for note in benchmark.data.notes)


def test_train_alone_is_split_at_random(tmp_path):
    benchmark = image_folder_stream(lay(tmp_path, "train/cat", "train/dog"), **TRANSFORMS)
    assert benchmark.label_space.class_names == ("cat", "dog") and benchmark.protocol["split"] == "random"


def test_splits_with_tasks_and_splits_within_tasks_and_classes(tmp_path):
    tasks = ["night/owl", "night/bat", "day/owl", "day/bee"]
    above = image_folder_stream(lay(tmp_path / "a", *grid(["train", "val", "test"], tasks)), **TRANSFORMS)
    within = [f"{t}/{s}/{c}" for t, c in (name.split("/") for name in tasks) for s in ("train", "val", "test")]
    between = image_folder_stream(lay(tmp_path / "b", *within), **TRANSFORMS)
    beneath = image_folder_stream(
        lay(tmp_path / "c", *(f"{t}/{s}" for t in tasks for s in ("train", "test"))), **TRANSFORMS
    )
    for benchmark in (above, between, beneath):
        assert benchmark.task_names == ("day", "night")
        assert benchmark.label_space.class_names == ("bee", "owl", "bat", "owl")
        assert benchmark.protocol["n_train"] == benchmark.protocol["n_test"] == [6, 6]
    assert between.protocol["n_valid"] == [6, 6] and "valid" not in beneath.streams


def test_splits_beside_something_else_are_refused(tmp_path):
    root = lay(tmp_path, "train/cat", "test/cat", "unlabelled/web")
    with pytest.raises(InputError, match=r"holds the splits test and train beside 'unlabelled'"):
        image_folder_stream(root, **TRANSFORMS)


def test_a_folder_without_pictures_beside_the_splits_is_none(tmp_path):
    root = lay(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (root / "annotations").mkdir()
    (root / "annotations" / "boxes.xml").write_text("<boxes/>")
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.task_names == ("all",)
    assert benchmark.data.notes == ["1 file that is no image by name is left out (.xml 1)"]


def test_classes_without_tasks(tmp_path):
    benchmark = image_folder_stream(lay(tmp_path, "cat", "dog"), **TRANSFORMS)
    assert benchmark.task_names == ("all",) and benchmark.label_space.class_names == ("cat", "dog")


def test_a_task_called_train_is_a_task_where_nothing_is_tested_beside_it(tmp_path):
    benchmark = image_folder_stream(lay(tmp_path, "train/cat", "train/dog", "bus/cat", "bus/dog"), **TRANSFORMS)
    assert benchmark.task_names == ("bus", "train")


@pytest.mark.parametrize(("folders", "told"), [(["val", "test"], "'test' and 'val' are"), (["val"], "'val' is")])
def test_folders_called_like_splits_without_one_to_train_on_are_tasks_and_that_is_said(tmp_path, folders, told):
    benchmark = image_folder_stream(lay(tmp_path, *grid(folders, ["cat", "dog"])), **TRANSFORMS)
    assert benchmark.task_names == tuple(sorted(folders))
    (note,) = benchmark.data.notes
    assert note.startswith(f"{told} taken for") and "a folder 'train'" in note


def test_folders_called_like_splits_that_are_none_of_the_tasks_or_bring_splits_are_not_spoken_of(tmp_path):
    alone = lay(tmp_path / "alone", *grid(["train"], ["t1/cat", "t1/dog", "t2/cat", "t2/dog"]))
    benchmark = image_folder_stream(alone, **TRANSFORMS)
    assert benchmark.task_names == ("t1", "t2") and not benchmark.data.notes
    divided = lay(tmp_path / "divided", *grid(["bus/train", "bus/test", "val/train", "val/test"], ["cat", "dog"]), n=1)
    benchmark = image_folder_stream(divided, **TRANSFORMS)
    assert benchmark.task_names == ("bus", "val") and not benchmark.data.notes


def test_nested_pictures_belong_to_their_class_and_what_is_left_out_is_counted(tmp_path):
    root = lay(tmp_path, "home/cat", "home/dog")
    lay(root, "home/dog/puppies/small")
    (root / "home/dog/notes.txt").write_text("none")
    (root / "home/clip.mp4").write_bytes(b"none")
    save(root / "cover.png")
    benchmark = image_folder_stream(root, layout="task/class", **TRANSFORMS)
    train, test = benchmark.protocol["n_train"], benchmark.protocol["n_test"]
    assert [a + b for a, b in zip(train, test, strict=True)] == [9]
    assert benchmark.data.notes == [
        "2 files that are no image by name are left out (.mp4 1, .txt 1)",
        f"1 image of no class is left out, such as {root / 'cover.png'}",
        f"3 images are in more than one class (by path or by content), such as {root / 'home/cat/0.png'} in 'cat' and "
        "'dog'",
    ]


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".JPE", ".apng", ".jp2"])
def test_further_kinds_of_image_files_are_read(tmp_path, suffix):
    root = lay(tmp_path, "t/cat", "t/dog")
    save(root / "t" / "cat" / f"more{suffix}")
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.protocol["n_train"][0] + benchmark.protocol["n_test"][0] == 7 and not benchmark.data.notes


def test_pictures_at_two_depths_are_refused_until_the_layout_is_given(tmp_path):
    root = lay(tmp_path, "cat", "dog/black")
    with pytest.raises(InputError, match=r"0\.png lies directly in a task folder, and .*0\.png in a class folder"):
        image_folder_stream(root, **TRANSFORMS)
    assert image_folder_stream(root, layout="class", **TRANSFORMS).label_space.class_names == ("cat", "dog")
    with pytest.raises(InputError, match="layout is auto, class or task/class, not 'flat'"):
        image_folder_stream(root, layout="flat", **TRANSFORMS)


def test_names_that_differ_in_hyphens_alone_stay_apart(tmp_path):
    root = lay(tmp_path, "t/t-shirt", "t/t_shirt", "t/a_b", "t/a-b", "t/red_cap", "u/t-shirt")
    benchmark = image_folder_stream(root, label_space="union", **TRANSFORMS)
    assert sorted(benchmark.label_space.class_names) == ["a-b", "a_b", "red cap", "t-shirt", "t_shirt"]
    note = benchmark.data.notes[0]
    assert "'a-b', 'a_b', 't-shirt', 't_shirt' differ in nothing but underscores" in note
    assert [len(task) for task in benchmark.label_space.tasks] == [5, 1]  # u's is the one of t that is called so


def test_folders_of_different_tasks_that_compete_are_joined_by_the_same_name_only(tmp_path):
    root = lay(tmp_path, "a/t-shirt", "a/red_cap", "b/t_shirt", "b/red_cap")
    for visible in ("seen", "union"):
        benchmark = image_folder_stream(root, label_space=visible, **TRANSFORMS)
        assert sorted(benchmark.label_space.class_names) == ["red cap", "t-shirt", "t_shirt"]
        (note,) = benchmark.data.notes
        assert note.startswith("the class folders 't-shirt', 't_shirt' differ in nothing but underscores")
    benchmark = image_folder_stream(root, label_space="task", **TRANSFORMS)
    assert sorted(benchmark.label_space.class_names) == ["red cap", "red cap", "t shirt", "t shirt"]
    assert benchmark.data.notes == []


def test_links_in_a_circle_end(tmp_path):
    root = lay(tmp_path, "t/cat", "t/dog")
    (root / "t" / "cat" / "up").symlink_to(root, target_is_directory=True)
    assert image_folder_stream(root, **TRANSFORMS).label_space.class_names == ("cat", "dog")


def test_a_table_with_a_validation_split(tmp_path):
    from avalanche_vlm.benchmarks import table_stream

    lay(tmp_path, "img", n=6)
    rows = [f"img/{i}.png,{'cat' if i % 2 else 'dog'},{('train', 'Val', 'test')[i // 2]}" for i in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    benchmark = table_stream(tmp_path / "t.csv", **TRANSFORMS)
    assert benchmark.protocol["n_valid"] == [2] and len(benchmark.streams["valid"]) == 1


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train2017", "val2017"),
        ("train_set", "test_set"),
        ("training_images", "testing images"),
        ("Train-Data", "Validation-Data"),
        ("trainset", "testset"),
        ("trainval", "test"),
    ],
)
def test_splits_as_data_sets_call_them(tmp_path, train, test):
    benchmark = image_folder_stream(lay(tmp_path, *grid([train, test], ["cat", "dog"])), **TRANSFORMS)
    assert benchmark.task_names == ("all",) and benchmark.protocol["n_train"] == benchmark.protocol["n_test"] == [6]
    assert any(f"{train!r} for the split train" in note for note in benchmark.data.notes)


def test_names_that_begin_like_a_split_are_tasks(tmp_path):
    benchmark = image_folder_stream(lay(tmp_path, *grid(["trains", "testers"], ["cat", "dog"])), **TRANSFORMS)
    assert benchmark.task_names == ("testers", "trains")


@pytest.mark.parametrize("tasks", [[""], ["a/", "b/"]])
def test_test_pictures_in_no_class_folder_leave_a_share_of_train_to_test(tmp_path, tasks):
    folders = [f"{task}train/{name}" for task in tasks for name in ("cat", "dog")]
    root = lay(tmp_path, *folders, *[f"{task}test" for task in tasks], n=5)
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.protocol["n_train"] == [8] * len(tasks) and benchmark.protocol["n_test"] == [2] * len(tasks)
    said = [note for note in benchmark.data.notes if "lie in no class folder" in note]
    assert len(said) == len(tasks) and "tested on a random share of its training pictures" in said[0]
