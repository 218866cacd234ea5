"""Names of classes: from files of every usual form, from folders, and a word where labels mean nothing."""

from __future__ import annotations

import json
import warnings

import pytest
from real_files import picture, save, transform

from avalanche_vlm.benchmarks import image_folder_stream, table_stream
from avalanche_vlm.benchmarks.sources import name_lists
from avalanche_vlm.benchmarks.sources.class_names import from_folders, meaningless
from avalanche_vlm.benchmarks.sources.name_lists import names_for, names_of_ids
from avalanche_vlm.errors import DataWarning, InputError

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}


def lay(root, *folders, n=3):
    for number, folder in enumerate(folders):
        for i in range(n):
            save(root / folder / f"{i}.png", picture(10 * number + i))
    return root


FILES = {
    "lines.txt": "goldfish\ntench\n",
    "tabs.txt": "n02\ttench\nn01\tgoldfish\n",
    "commas.csv": "label,name\nn01,goldfish\nn02,tench\n",
    "spaces.txt": "n01 goldfish\nn02 tench",
    "object.json": json.dumps({"n02": "tench", "n01": "goldfish"}),
    "index.json": json.dumps({"n01": ["x", "goldfish"], "n02": ["y", "tench"]}),
    "turned.json": json.dumps(["goldfish", "tench"]),
}


@pytest.mark.parametrize("name", FILES)
def test_every_usual_file_names_the_labels(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    named, _ = names_for(tmp_path / name, ["n01", "n02"])
    assert named == {"n01": "goldfish", "n02": "tench"}


def test_json_of_classes_and_ids(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    assert names_for(tmp_path / "c.json", ["0", "1"])[0] == {"0": "cat", "1": "dog"}
    (tmp_path / "d.json").write_text(json.dumps([{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]))
    assert names_for(tmp_path / "d.json", ["3", "17"])[0] == {"3": "dog", "17": "cat"}


def test_an_id_that_is_a_list_is_refused(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([{"id": [0], "name": "cat"}, {"id": {}, "name": "dog"}]))
    with pytest.raises(InputError, match=r"d\.json has an id that is neither a number nor a text"):
        names_for(tmp_path / "d.json", ["0", "1"])


def test_an_empty_name_is_refused_wherever_it_stands(tmp_path):
    (tmp_path / "names.txt").write_text("['cat', 'dog', ' ']")
    for given in (["cat", "dog", " "], tmp_path / "names.txt"):
        with pytest.raises(InputError, match="has an empty name for the class '2'"):
            names_for(given, ["0", "1", "2"])
        with pytest.raises(InputError, match=r"the class 2 has an empty name|an empty name for the class '2'"):
            names_of_ids(given, [0, 1, 2])
    assert names_of_ids(["cat", "dog", " "], [0, 1])[0] == ["cat", "dog"]


def test_names_in_order_go_by_number_and_not_by_the_alphabet():
    names = [f"name {i}" for i in range(12)]
    named, _ = names_for(names, [str(i) for i in (10, 2, 11, 0)])
    assert named == {"10": "name 10", "2": "name 2", "11": "name 11", "0": "name 0"}
    assert names_for(["one", "two", "three"], ["1", "2", "3"])[0] == {"1": "one", "2": "two", "3": "three"}
    assert names_for({0: "zero", 1: "one"}, ["0.0", "01"])[0] == {"0.0": "zero", "01": "one"}


def test_names_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="has 2 names, but there is a class '2'"):
        names_for(["a", "b"], ["0", "2"])
    with pytest.raises(InputError, match="has no name for the class 'x'"):
        names_for({"y": "why"}, ["x"])
    with pytest.raises(InputError, match="has 3 names for 2 classes, and does not say which is whose"):
        names_for(["a", "b", "c"], ["x", "y"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json is not JSON"):
        names_for(tmp_path / "bad.json", ["x"])
    (tmp_path / "deep.json").write_text('{"a": {"b": 1}}')
    with pytest.raises(InputError, match="neither a list of names nor names by label"):
        names_for(tmp_path / "deep.json", ["a"])
    (tmp_path / "twice.txt").write_text("x\tone\nx\ttwo\n")
    with pytest.raises(InputError, match="names the class 'x' more than once"):
        names_for(tmp_path / "twice.txt", ["x"])
    with pytest.raises(InputError, match="class_names has 2 names, but the benchmark has the class id 4"):
        names_of_ids(["a", "b"], {0, 4})


def test_a_list_of_the_labels_themselves_names_each_by_itself():
    assert names_for(["dog", "Sea_lion"], ["sea lion", "dog"])[0] == {"sea lion": "Sea_lion", "dog": "dog"}


def test_a_number_of_five_thousand_digits_is_no_number(tmp_path):
    long = "9" * 5000  # more than Python reads of one
    (tmp_path / "names.txt").write_text(f"{long} goldfish\n{long}1 tench\n")
    named, _ = names_for(tmp_path / "names.txt", [long, f"{long}1"])
    assert named == {long: "goldfish", f"{long}1": "tench"}
    assert from_folders([f"{long}.cat", f"{long}1.dog"])[0] == {f"{long}.cat": "cat", f"{long}1.dog": "dog"}


@pytest.mark.parametrize("split", [None, 2])
def test_labels_of_five_thousand_digits_are_classes_in_the_order_of_their_size(tmp_path, split):
    labels = ["1" + "0" * 5000, "9" * 5000, "10", "9"]
    rows = [f"{place}{i}.png,{label}" for place, label in enumerate(labels) for i in range(3)]
    for number, row in enumerate(rows):
        save(tmp_path / row.partition(",")[0], picture(number))
    (tmp_path / "table.csv").write_text("\n".join(["image,label", *rows]))
    options = {} if split is None else {"split_classes": split, "class_order": "sorted"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        stream = table_stream(tmp_path / "table.csv", **TRANSFORMS, **options)
    assert list(stream.label_space.class_names) == labels[::-1]


@pytest.mark.parametrize("lines", [["x"] * 200_000, ["0 cat", "1 dog", *["2 x"] * 200_000]])
def test_a_long_list_that_numbers_nothing_is_left_where_that_is_seen(monkeypatch, tmp_path, lines):
    """It was taken apart by six separators and numbered through to its end, by each reader of it."""
    looked_at = []
    real = name_lists._is
    monkeypatch.setattr(name_lists, "_is", lambda *given: looked_at.append(given) or real(*given))
    (tmp_path / "names.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match="names for 2 classes, and does not say which is whose"):
        names_for(tmp_path / "names.txt", ["cat", "dog"])
    assert len(looked_at) < 20


def test_numbers_before_names_go_where_they_count_folders():
    assert from_folders(["001.Black_footed_Albatross", "200.Wren"])[0]["001.Black_footed_Albatross"] == (
        "Black footed Albatross"
    )
    assert set(from_folders(["0_cat", "1_dog"])[0].values()) == {"cat", "dog"}
    assert set(from_folders(["2_door_car", "4_wheel_drive"])[0].values()) == {"2 door car", "4 wheel drive"}
    assert set(from_folders(["1.cat", "dog"])[0].values()) == {"1.cat", "dog"}
    assert set(from_folders(["1.cat", "2.cat"])[0].values()) == {"1.cat", "2.cat"}


@pytest.mark.parametrize("names", [["0", "1"], ["0.0", "1.0"], ["n01440764", "n02119789"], ["class 0", "class_1"]])
def test_names_that_mean_nothing_are_warned_of_once_and_noted(tmp_path, names):
    root = lay(tmp_path, *(f"{task}/{name}" for task in ("a", "b") for name in names))
    with pytest.warns(DataWarning, match="say nothing to a text tower: name the classes with class_names") as caught:
        benchmark = image_folder_stream(root, label_space="union", **TRANSFORMS)
    assert len(caught) == 1 and "--class-names FILE" in benchmark.data.notes[-1]


def test_names_that_mean_something_are_not_warned_of(tmp_path):
    assert meaningless(["707", "A320", "Cessna 172"]) is None and meaningless([]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        benchmark = image_folder_stream(lay(tmp_path, "a/cat", "a/dog"), **TRANSFORMS)
        table = table_stream_of(tmp_path, ["cat", "dog"])
    assert benchmark.protocol["class_names"] is None and table.data.notes == []


def table_stream_of(folder, labels, **options):
    lay(folder, "img", n=6)
    rows = [f"img/{i}.png,{labels[i % len(labels)]}" for i in range(6)]
    (folder / "t.csv").write_text("\n".join(["image,label", *rows]))
    return table_stream(folder / "t.csv", **TRANSFORMS, **options)


def test_a_file_of_names_beside_the_data_is_read_and_said(tmp_path):
    root = lay(tmp_path / "digits", "t/10", "t/2", "t/1")
    (root / "classes.txt").write_text("\n".join(f"name {i}" for i in range(11)))
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.label_space.class_names == ("name 1", "name 2", "name 10")
    assert benchmark.protocol["class_names"] == str(root / "classes.txt")
    assert "in the order of the ids from 0" in benchmark.data.notes[0] and "'1' is 'name 1'" in benchmark.data.notes[0]
    (root / "classes.txt").rename(tmp_path / "classes.txt")
    assert image_folder_stream(root, **TRANSFORMS).label_space.class_names == ("name 1", "name 2", "name 10")


def test_a_file_beside_the_data_that_does_not_fit_is_left_alone_and_said(tmp_path):
    root = lay(tmp_path, "t/cat", "t/dog")
    (root / "classes.txt").write_text("bird\nfish\n")  # which is whose?
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.label_space.class_names == ("cat", "dog")
    assert "is not used for class names" in benchmark.data.notes[0]
    (root / "classes.txt").write_text("dog\ncat\n")  # the same names in another order
    benchmark = image_folder_stream(root, **TRANSFORMS)
    assert benchmark.label_space.class_names == ("cat", "dog") and benchmark.data.notes == []


def test_names_are_given_for_a_folder_and_for_a_table(tmp_path):
    root = lay(tmp_path / "f", "t/n02", "t/n01")
    (tmp_path / "names.txt").write_text("n01\tgoldfish\nn02\tgreat white shark")
    benchmark = image_folder_stream(root, class_names=tmp_path / "names.txt", **TRANSFORMS)
    assert benchmark.label_space.class_names == ("goldfish", "great white shark")
    table = table_stream_of(tmp_path, ["0.0", "1.0"], class_names=["cat", "dog"])
    assert table.label_space.class_names == ("cat", "dog") and table.protocol["class_names"] == "given"


def test_equal_names_in_one_task_stay_two_classes(tmp_path):
    benchmark = table_stream_of(tmp_path, ["n02012849", "n03126707"], class_names=["crane", "crane"])
    assert benchmark.label_space.class_names == ("crane", "crane")


NUMBERED = {
    "space.txt": "0 circle\n1 star\n",
    "one.txt": "1. circle\n2. star\n",
    "colon.txt": "0: circle\n1: star\n",
    "python.txt": "{0: 'circle',\n 1: 'star'}",
    "json.txt": '{"0": "circle", "1": "star"}',
    "list.txt": '["circle", "star"]',
}


@pytest.mark.parametrize("name", NUMBERED)
def test_numbered_names_are_names_in_that_order(tmp_path, name):
    (tmp_path / name).write_text(NUMBERED[name])
    assert names_for(tmp_path / name, ["0", "1"])[0] == {"0": "circle", "1": "star"}
    if name in ("space.txt", "one.txt", "colon.txt", "list.txt"):
        assert names_for(tmp_path / name, ["a", "b"])[0] == {"a": "circle", "b": "star"}


@pytest.mark.parametrize("text", ["n01: goldfish\nn02: tench\n", '{"n01": "goldfish", "n02": "tench"}'])
def test_labels_and_names_as_in_yaml_and_json_in_a_text_file(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    assert names_for(tmp_path / "names.txt", ["n01", "n02"])[0] == {"n01": "goldfish", "n02": "tench"}


def test_lines_of_other_labels_are_no_names(tmp_path):
    (tmp_path / "names.txt").write_text("n01: goldfish\nn07: shark\n")
    with pytest.raises(InputError, match="has no name for the class 'n02'"):
        names_for(tmp_path / "names.txt", ["n01", "n02"])
    (tmp_path / "names.txt").write_text("x: goldfish\ny: shark\n")
    with pytest.raises(InputError, match="names by label, but there is no class 'x'"):
        names_for(tmp_path / "names.txt", ["n01", "n02"])
    (tmp_path / "names.txt").write_text("{broken")
    with pytest.raises(InputError, match="neither JSON nor a literal"):
        names_for(tmp_path / "names.txt", ["n01", "n02"])


def test_two_classes_of_one_name_are_noted(tmp_path):
    root = lay(tmp_path / "data", "circle", "star")
    with pytest.warns(DataWarning, match="classes 0 and 1 have one name, 'Kreis'"):
        benchmark = image_folder_stream(root, class_names=["Kreis", "Kreis"], **TRANSFORMS)
    assert any("have one name, 'Kreis'" in note for note in benchmark.data.notes)
    with pytest.raises(InputError, match="class_names has an empty name for the class 'circle'"):
        image_folder_stream(root, class_names=["", "b"], **TRANSFORMS)
