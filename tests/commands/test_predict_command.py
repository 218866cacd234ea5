"""``predict`` and ``retrieve`` on the command line: files, folders and tables in, tables and objects out."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
import torch
from real_files import picture, save, truncate
from saved import CLASSES, pictures_in, saved_lora, saved_tiny

from avalanche_vlm import cli
from avalanche_vlm.artifacts import load
from avalanche_vlm.benchmarks.sources.images import read_image
from avalanche_vlm.errors import DataWarning
from avalanche_vlm.models.predict import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved_tiny(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def routed(tmp_path_factory) -> Path:
    return saved_lora(tmp_path_factory.mktemp("routed"))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def run(*arguments: object) -> int:
    return cli.main(list(map(str, arguments)))


def test_every_image_is_in_the_table_with_its_classes(model, tmp_path, capsys):
    paths = pictures_in(tmp_path, good=5, bad=0)
    assert run("predict", model, tmp_path, "--top-k", 2) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert err == "" and list(rows[0]) == [
        "image", "rank", "class", "class_id", "probability", "module", "out_of_distribution", "error"
    ]  # fmt: skip
    found = {path: load(model).predict(path, top_k=2)[0] for path in paths}
    assert {row["image"] for row in rows} == set(map(str, paths)) and len(rows) == 10
    for row in rows:
        expected = found[Path(row["image"])].classes[int(row["rank"]) - 1]
        assert (row["class"], int(row["class_id"])) == (expected.name, expected.index)
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=2e-6)
        assert row["module"] == row["out_of_distribution"] == row["error"] == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_listed_and_nothing_else_is_lost(model, tmp_path, capsys, workers):
    pictures_in(tmp_path / "pictures", good=4, bad=2)
    out = tmp_path / "answers.jsonl"
    code = run(
        "predict",
        model,
        tmp_path / "pictures",
        tmp_path / "none.png",
        "--out",
        out,
        "--batch-size",
        3,
        "--workers",
        workers,
    )
    said = capsys.readouterr()
    assert code == 0 and said.out == f"written to {out}\n"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 7 and sum(line["error"] is None for line in lines) == 4
    assert all(len(line["classes"]) == 5 for line in lines if line["error"] is None)
    failed = [line for line in lines if line["error"]]
    assert [Path(line["image"]).name for line in failed] == ["bad 0.png", "bad 1.png", "none.png"]
    listed = said.err.splitlines()
    assert listed[:3] == [f"avalanche-vlm: {line['error']}" for line in failed]
    assert listed[3:] == ["avalanche-vlm: 3 of 7 images could not be read"]


def test_nothing_that_can_be_read_ends_with_2(model, tmp_path, capsys):
    truncate(save(tmp_path / "bad.png"))
    (tmp_path / "empty").mkdir()
    assert run("predict", model, tmp_path / "bad.png", tmp_path / "empty") == 2
    out, err = capsys.readouterr()
    assert [row["image"] for row in table(out)] == [str(tmp_path / "bad.png"), str(tmp_path / "empty")]
    assert "there is no image in the folder" in err and err.endswith("avalanche-vlm: no image could be read\n")


def test_labels_of_the_users_take_the_place_of_the_models(model, tmp_path, capsys):
    path = save(tmp_path / "one.png", picture(3))
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeffred star\n\n  blue moon \nnight", encoding="utf-8")
    assert run("predict", model, path, "--label-file", labels, "--template", "a {}", "--template", "{} here") == 0
    from_file = capsys.readouterr().out
    assert {row["class"] for row in table(from_file)} == {"red star", "blue moon", "night"}
    assert (
        run(
            "predict",
            model,
            path,
            "--labels",
            "red star,blue moon, night",
            "--template",
            "a {}",
            "--template",
            "{} here",
        )
        == 0
    )
    assert capsys.readouterr().out == from_file
    expected = load(model).predict(path, ["red star", "blue moon", "night"], templates=("a {}", "{} here"))
    assert [row["class"] for row in table(from_file)] == [found.name for found in expected[0].classes]


def test_the_module_and_the_routers_verdict_are_written(routed, tmp_path, capsys):
    pictures_in(tmp_path, good=6, bad=0)
    saved = load(routed)
    dark = save(tmp_path / "dark.png", picture(1).point(lambda value: value // 4))
    expected = {str(path): saved.predict(path)[0] for path in (dark, *tmp_path.rglob("*.png"))}
    assert {found.out_of_distribution for found in expected.values()} <= {True, False}
    assert run("predict", routed, tmp_path, "--top-k", 1) == 0
    for row in table(capsys.readouterr().out):
        found = expected[row["image"]]
        assert row["module"] == (found.module or "")
        assert row["out_of_distribution"] == ("true" if found.out_of_distribution else "false")
    assert run("predict", routed, dark, "--out", tmp_path / "a.jsonl") == 0
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert (line["module"], line["out_of_distribution"]) == (
        expected[str(dark)].module,
        expected[str(dark)].out_of_distribution,
    )


def test_tables_are_answered_row_by_row(model, tmp_path, capsys):
    save(tmp_path / "pics/ü.png", picture(1))
    (tmp_path / "t.csv").write_text("image,label\npics/ü.png,a\npics/none.png,b\npics/ü.png,c\n")
    assert run("predict", model, tmp_path / "t.csv", "--top-k", 1) == 0
    rows = table(capsys.readouterr().out)
    assert [row["image"] for row in rows] == ["pics/ü.png", "pics/none.png", "pics/ü.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    (tmp_path / "u.csv").write_text("photo\nü.png\n")
    assert run("predict", model, tmp_path / "u.csv", "--image-column", "photo", "--image-root", tmp_path / "pics") == 0


def test_names_that_are_no_text_or_have_signs_of_tables_are_written_so_that_they_can_be_read(model, tmp_path, capsys):
    strange = ['with "quotes", and\nlines.png', "漢字 🙂.png"]
    for name in strange:
        save(tmp_path / name)
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes((tmp_path / strange[1]).read_bytes())
    assert run("predict", model, tmp_path, "--top-k", 1, "--out", tmp_path / "a.csv") == 0
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        found = {Path(row["image"]).name for row in csv.DictReader(file)}
    assert found == {*strange, "caf\\udce9.png"}
    capsys.readouterr()
    assert run("predict", model, tmp_path, "--top-k", 1) == 0
    assert {Path(row["image"]).name for row in table(capsys.readouterr().out)} == found


def test_a_file_of_answers_is_whole_or_not_there(model, tmp_path, monkeypatch, capsys):
    pictures_in(tmp_path / "pictures", good=6, bad=0)
    out = tmp_path / "deep/answers.csv"
    assert run("predict", model, tmp_path / "pictures", "--out", out, "--top-k", 1) == 0
    before = out.read_text()
    asked = []

    def fail(self, images, names=None):
        asked.append(len(images))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, images, names)

    real = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", fail)
    assert run("predict", model, tmp_path / "pictures", "--out", out, "--batch-size", 2) == 130
    assert out.read_text() == before and [path.name for path in out.parent.iterdir()] == ["answers.csv"]


def test_a_file_that_cannot_be_written_is_named(model, tmp_path, capsys):
    path = save(tmp_path / "one.png")
    (tmp_path / "file").write_text("")
    assert run("predict", model, path, "--out", tmp_path / "file/a.csv") == 2
    assert f"cannot write {tmp_path / 'file/a.csv'}: " in capsys.readouterr().err


def test_an_image_that_has_no_answer_takes_none_with_it(model, tmp_path, monkeypatch, capsys):
    pictures_in(tmp_path, good=4, bad=0)
    saved = load(model)
    transform = type(saved.transforms.eval).__call__
    first = sorted(tmp_path.rglob("*.png"))[0]
    marked = saved.transforms.eval(read_image(first))[0, 0, 0]
    monkeypatch.setattr(
        type(saved.transforms.eval), "__call__", lambda self, image: _broken(transform(self, image), marked)
    )
    assert run("predict", model, tmp_path, "--top-k", 1) == 0
    out, err = capsys.readouterr()
    assert [row["image"] for row in table(out) if row["error"]] == [str(first)]
    assert f"no answer to {first}: a logit is not a number" in err


def _broken(tensor: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    return tensor * torch.nan if tensor[0, 0, 0] == marked else tensor


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "{none}", "x.png"], "there is no saved model at"),
        (["predict", "{model}", "x.png", "--out", "a.txt"], "the name of the file ends in .csv or .jsonl"),
        (["predict", "{model}", "x.png", "--out", "{folder}.csv/"], "is a folder: name a file"),
        (["predict", "{model}", "x.png", "--label-file", "{none}"], "there is no table at"),
        (["predict", "{model}", "x.png", "--labels", "cat,cat"], "the label 'cat' is named twice"),
        (["predict", "{model}", "x.png", "--template", "{{}}"], "templates are for labels"),
        (["predict", "{model}", "x.png", "--device", "gpu"], "--device is auto, cpu, cuda or cuda:N"),
        (["retrieve", "{model}", "--images", "x.png"], "retrieve takes --images and --query, or --image and --texts"),
        (["retrieve", "{model}", "--query", "x"], "retrieve takes --images and --query, or --image and --texts"),
        (["retrieve", "{model}", "--images", "x", "--query", " "], "query 0 is no text"),
        (["retrieve", "{model}", "--image", "x.png", "--texts", "{none}"], "there is no table at"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(model, tmp_path, capsys, arguments, sentence):
    (tmp_path / "folder.csv").mkdir()
    places = {
        "{model}": str(model),
        "{none}": str(tmp_path / "none"),
        "{folder}.csv/": str(tmp_path / "folder.csv"),
        "{{}}": "a {}",
    }
    assert cli.main([places.get(word, word) for word in arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("avalanche-vlm: ") and sentence in err and "\n" not in err


@pytest.mark.parametrize(
    "words", ["predict", "predict DIR", "predict DIR x --labels a --label-file b", "predict DIR x --top-k 0"]
)
def test_words_of_the_wrong_form_are_answered_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2 and "usage: avalanche-vlm predict" in capsys.readouterr().err


# Retrieval ----------------------------------------------------------------------------------------------------------


def test_images_are_ranked_for_each_query(model, tmp_path, capsys):
    paths = pictures_in(tmp_path, good=6, bad=1)[:6]
    queries = ["a red star", "night"]
    assert run("retrieve", model, "--images", tmp_path, "--query", queries[0], "--query", queries[1], "--top-k", 4) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert list(rows[0]) == ["query", "rank", "image", "similarity"]
    assert "bad 0.png" in err and "avalanche-vlm: 1 of 7 images could not be read" in err
    for query, found in zip(queries, load(model).retrieve(paths, queries, 4), strict=True):
        of_query = [row for row in rows if row["query"] == query]
        assert [row["image"] for row in of_query] == [match.item for match in found]
        assert [row["rank"] for row in of_query] == ["1", "2", "3", "4"]
        assert [float(row["similarity"]) for row in of_query] == pytest.approx(
            [match.similarity for match in found], abs=2e-6
        )


def test_texts_are_ranked_for_an_image(model, tmp_path):
    path = save(tmp_path / "one.png", picture(3))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(CLASSES))
    assert run("retrieve", model, "--image", path, "--texts", texts, "--top-k", 3, "--out", tmp_path / "a.jsonl") == 0
    line = json.loads((tmp_path / "a.jsonl").read_text())
    similarities = [match["similarity"] for match in line["matches"]]
    assert line["image"] == str(path) and similarities == sorted(similarities, reverse=True)
    assert len(line["matches"]) == 3 and {match["text"] for match in line["matches"]} <= set(CLASSES)


def test_a_query_beyond_the_context_is_said_on_the_command_line(model, tmp_path, capsys):
    save(tmp_path / "one.png")
    with pytest.warns(DataWarning, match="is longer than the 20 tokens that tiny reads of a text"):
        assert run("retrieve", model, "--images", tmp_path / "one.png", "--query", "star " * 40) == 0


def test_a_search_among_nothing_ends_with_2(model, tmp_path, capsys):
    out = tmp_path / "a.csv"
    assert run("retrieve", model, "--images", tmp_path / "none.png", "--query", "x", "--out", out) == 2
    assert not out.exists() and "no image could be read" in capsys.readouterr().err
