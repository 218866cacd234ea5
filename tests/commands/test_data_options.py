"""Options of one's own data on the command line: handed over, or refused by name."""

from __future__ import annotations

import pytest

from avalanche_vlm import cli
from avalanche_vlm.commands.arguments import parse


@pytest.fixture
def data(tmp_path):
    from PIL import Image

    for i in range(8):
        Image.new("RGB", (32, 32), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    labels = [f"{i}.png,{i % 2},a text {i}" for i in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *(line.rsplit(",", 1)[0] for line in labels)]))
    (tmp_path / "both.csv").write_text("\n".join(["image,label,caption", *labels]))
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *(f"{i}.png,a text {i}" for i in range(8))]))
    (tmp_path / "names.txt").write_text("red thing\ndark thing\n")
    return tmp_path


def test_flags_of_data_reach_the_request():
    flags = "--class-names n.txt --kind classes --image-root d --split-classes 2 --class-order sorted --label-column L"
    _, request = parse(["run", "--data", "x.csv", "--out", "o", *flags.split()])
    assert request.stream.options == {
        "class_names": "n.txt",
        "kind": "classes",
        "image_root": "d",
        "split_classes": 2,
        "class_order": "sorted",
        "label_column": "L",
    }


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--data {d}/both.csv", "say with kind (--kind)"),
        ("--data {d}/pairs.csv --label-space union", "--label-space) does not apply to"),
        ("--data {d}/pairs.csv --template a{{}}", "--template) does not apply to"),
        ("--data {d}/pairs.csv --class-names {d}/names.txt", "--class-names) does not apply to"),
        ("--data {d}/labels.csv --n-train 3", "--n-train does not apply to --data"),
        ("--data {d} --kind pairs", "--kind does not apply to"),
        ("--data {d}/labels.csv --reference {d}/pairs.csv", "--reference does not apply to zero-shot"),
        ("--class-names {d}/names.txt", "--class-names does not apply to picturebook"),
        ("--split-classes 2", "--split-classes does not apply to picturebook"),
        ("--image-column x", "--image-column does not apply to picturebook"),
        ("--on-error skip", "--on-error does not apply to picturebook, only to --data"),
        ("--shots 2", "--shots does not apply to picturebook"),
        ("--time-column x", "--time-column does not apply to picturebook"),
        ("--data {d}/labels.csv --time-column when", "has no column 'when' (time_column)"),
        (
            "--data {d}/labels.csv --task-column a --domain-column b",
            "task_column and domain_column both say which task",
        ),
        ("--data {d}/pairs.csv --shots 2", "--shots) does not apply to"),
        ("--online --epochs 3", "--online is one pass over each task, and --epochs says 3: give one of them"),
        ("--benchmark picturebook-pairs --label-space union", "--label-space does not apply to picturebook-pairs"),
    ],
)
def test_what_would_go_unheeded_is_refused_by_name(flags, sentence, data, capsys):
    arguments = ["run", "--recipe", "zero-shot", "--quiet", "--out", str(data / "out"), *flags.format(d=data).split()]
    assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_data_set_of_numbers_with_names_becomes_tasks(data, capsys):
    import json

    options = f"--class-names {data / 'names.txt'} --split-classes 2 --class-order sorted --recipe zero-shot"
    arguments = ["run", "--data", str(data / "labels.csv"), "--out", str(data / "out"), *options.split()]
    assert cli.main(arguments) == 0
    result = json.loads((data / "out/result.json").read_text())
    assert result["tasks"] == ["classes 1", "classes 2"]
    assert result["protocol"]["data"]["class_order"] == ["red thing", "dark thing"]
    assert "class names from" in capsys.readouterr().err


def test_few_shots_of_steps_in_time_are_met_once(data):
    import json

    rows = (data / "labels.csv").read_text().splitlines()
    timed = [f"{rows[0]},year", *(f"{row},{2020 + number % 2}" for number, row in enumerate(rows[1:]))]
    (data / "timed.csv").write_text("\n".join(timed))
    options = "--time-column year --shots 1 --online --recipe zero-shot --quiet --option test_fraction=0.5"
    assert cli.main(["run", "--data", str(data / "timed.csv"), "--out", str(data / "out"), *options.split()]) == 0
    result = json.loads((data / "out/result.json").read_text())
    assert result["tasks"] == ["2020", "2021"] and result["protocol"]["train"]["epochs"] == 1
    assert result["protocol"]["data"]["steps"] == "time" and set(result["data"]["chosen"]) == {"2020", "2021"}


def test_classes_that_the_tokenizer_cannot_tell_apart_are_said_once_before_training(data, capsys):
    import json

    rows = [f"{i}.png,{'Star' if i % 2 else 'star'}" for i in range(8)]
    (data / "alike.csv").write_text("\n".join(["image,label", *rows]))
    arguments = ["compare", "--data", str(data / "alike.csv"), "--recipes", "zero-shot,simplecil"]
    assert cli.main([*arguments, "--out", str(data / "out")]) == 0
    told = capsys.readouterr().err
    assert told.count("the same tokens for the classes 'Star' and 'star'") == 1
    notes = json.loads((data / "out/zero-shot/seed-0/result.json").read_text())["data"]["notes"]
    assert len(notes) == 1 and "--class-names FILE" in notes[0]
