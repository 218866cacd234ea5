"""Columns under other names, tables with labels and captions, one data set divided into tasks."""

from __future__ import annotations

import csv

import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import image_folder_stream, reference_table, table_stream
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.tiny import build_tokenizer

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}
PAIRS = {**TRANSFORMS, "tokenizer": build_tokenizer()}
CLASSES = ["fox", "star", "heart", "moon", "circle"]


@pytest.fixture
def folder(tmp_path):
    for i in range(20):
        save(tmp_path / "img" / f"{i}.png", picture(i, 20 + i, 30))
    return tmp_path


def table(folder, rows, name="t.csv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def rows(**columns):
    return [{name: value(i) for name, value in columns.items()} for i in range(20)]


def test_columns_are_named(folder):
    path = table(
        folder,
        rows(
            Bild=lambda i: f"{i}.png",
            Art=lambda i: CLASSES[i % 2],
            Gruppe=lambda i: f"t{i // 10}",
            Teil=lambda i: "val" if i % 10 > 6 else "train",
            label=lambda i: "not read",
        ),
    )
    named = {"image_column": "Bild", "label_column": "Art", "task_column": "gruppe", "split_column": "Teil"}
    benchmark = table_stream(path, **TRANSFORMS, **named, image_root=folder / "img")
    assert benchmark.task_names == ("t0", "t1") and benchmark.label_space.class_names == ("fox", "star") * 2
    assert benchmark.protocol["n_test"] == [3, 3] and benchmark.protocol["image_root"] == str(folder / "img")
    assert benchmark.protocol["columns"] == {"image": "Bild", "label": "Art", "task": "gruppe", "split": "Teil"}
    with pytest.raises(InputError, match=r"has no column 'Foto' \(image_column\); it has art, bild"):
        table_stream(path, **TRANSFORMS, image_column="Foto")
    with pytest.raises(InputError, match=r"has no column 'image'; .* \(name it with image_column\)"):
        table_stream(path, **TRANSFORMS)


def test_labels_and_captions_ask_for_the_kind(folder):
    path = table(
        folder, rows(image=lambda i: f"img/{i}.png", label=lambda i: CLASSES[i % 2], caption=lambda i: f"a {i}")
    )
    with pytest.raises(InputError, match=r"has labels and captions: say with kind \(--kind\)"):
        table_stream(path, **PAIRS)
    assert table_stream(path, kind="classes", **PAIRS).label_space.class_names == ("fox", "star")
    assert table_stream(path, kind="pairs", **PAIRS).kind == "pairs"
    assert table_stream(path, caption_column="caption", **PAIRS).kind == "pairs"
    assert reference_table(path, transform=transform, caption_column="label").captions[1] == "star"


@pytest.mark.parametrize(
    "option", [{"label_space": "union"}, {"class_names": ["a"]}, {"split_classes": 2}, {"class_order": "sorted"}]
)
def test_options_that_captions_do_not_heed_are_refused_by_name(folder, option):
    path = table(folder, rows(image=lambda i: f"img/{i}.png", caption=lambda i: f"a {i}"))
    name = next(iter(option))
    with pytest.raises(InputError, match=rf"{name} \(--{name.replace('_', '-')}\) does not apply to .*of captions"):
        table_stream(path, **PAIRS, **option)


def labelled(folder):
    return table(folder, rows(image=lambda i: f"img/{i}.png", label=lambda i: CLASSES[i % 5]))


def test_one_data_set_becomes_tasks_in_a_given_order(folder):
    benchmark = table_stream(
        labelled(folder), split_classes=2, class_order=["star", "moon", "fox", "circle", "heart"], **TRANSFORMS
    )
    space = benchmark.label_space
    assert benchmark.task_names == ("classes 1", "classes 2") and space.visible == "seen"
    assert [{space.class_names[c] for c in task} for task in space.tasks] == [
        {"star", "moon", "fox"},
        {"circle", "heart"},
    ]
    assert benchmark.protocol["split_classes"] == 2 and benchmark.protocol["class_order_seed"] is None
    assert benchmark.protocol["class_order"] == ["star", "moon", "fox", "circle", "heart"]
    by_label = {f"{i}.png": CLASSES[i % 5] for i in range(20)}
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            data = raw(experience.dataset)
            for path, y in zip(data.images.paths, data.targets, strict=True):
                assert space.class_names[y] == by_label[path.name]


def test_the_order_of_classes_is_drawn_sorted_or_read(folder):
    path = labelled(folder)
    orders = [table_stream(path, split_classes=5, seed=s, **TRANSFORMS).protocol["class_order"] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == sorted(CLASSES)
    sorted_too = table_stream(path, split_classes=5, class_order="sorted", **TRANSFORMS).protocol["class_order"]
    assert sorted_too == sorted(CLASSES)
    (folder / "order.txt").write_text("\n".join(reversed(CLASSES)))
    read = table_stream(path, split_classes=5, class_order=folder / "order.txt", **TRANSFORMS)
    assert read.protocol["class_order"] == CLASSES[::-1]
    with pytest.raises(InputError, match="class_order lacks the class 'circle'"):
        table_stream(path, split_classes=2, class_order=CLASSES[:4], **TRANSFORMS)
    with pytest.raises(InputError, match="has the class 'sun', which the data do not have"):
        table_stream(path, split_classes=2, class_order=[*CLASSES, "sun"], **TRANSFORMS)
    with pytest.raises(InputError, match="split_classes is a number from 1 to 5, the number of classes, not 6"):
        table_stream(path, split_classes=6, **TRANSFORMS)
    with pytest.raises(InputError, match="class_order is the order of split_classes, which is not given"):
        table_stream(path, class_order="sorted", **TRANSFORMS)


def test_a_folder_is_divided_by_the_numbers_of_its_classes(tmp_path):
    for label in range(12):
        for i in range(2):
            save(tmp_path / str(label) / f"{i}.png", picture(label))
    names = [f"name {i}" for i in range(12)]
    options = {"class_names": names, "split_classes": 4, "class_order": "sorted"}
    benchmark = image_folder_stream(tmp_path, **options, **TRANSFORMS)
    space = benchmark.label_space
    assert [[space.class_names[c] for c in task] for task in space.tasks] == [names[i : i + 3] for i in (0, 3, 6, 9)]
    with pytest.raises(InputError, match="splits one task, and the data have 2"):
        for task in "ab":
            save(tmp_path / "two" / task / "x" / "0.png"), save(tmp_path / "two" / task / "x" / "1.png")
        image_folder_stream(tmp_path / "two", split_classes=2, **TRANSFORMS)
