"""``avalanche-vlm list``."""

from __future__ import annotations

import json

import pytest

from avalanche_vlm import benchmarks, cli
from avalanche_vlm.benchmarks.sources import registry
from avalanche_vlm.benchmarks.sources.registry import Format, register_format
from avalanche_vlm.training import recipes


def told(capsys, *words: str) -> str:
    assert cli.main(["list", *words]) == 0
    return capsys.readouterr().out


def names(capsys, what: str) -> list[str]:
    from_json = [line["name"] for line in json.loads(told(capsys, what, "--json"))]
    lines = told(capsys, what).splitlines()
    assert len(lines) == len(from_json) and all(map(str.startswith, lines, from_json))
    return from_json


def test_names_are_those_of_the_library(capsys):
    assert names(capsys, "recipes") == recipes.list()
    assert names(capsys, "benchmarks") == benchmarks.list()
    assert names(capsys, "formats") == [
        "class-folder",
        "csv",
        "tsv",
        "jsonl",
        "annotations",
        "caption-list",
        "described-folder",
        "parquet",
        "parquet-folder",
        "tar",
        "tar-folder",
    ]
    models = names(capsys, "models")
    assert models[0] == "tiny" and {"ViT-B-16", "ViT-B-16-SigLIP", "RN50"} < set(models)


def test_recipes_are_listed_alike_from_catalogue_and_registry(capsys, monkeypatch):
    import sys

    registered = told(capsys, "recipes", "--json")
    monkeypatch.delitem(sys.modules, "avalanche_vlm.training.recipes.registry")
    assert told(capsys, "recipes", "--json") == registered
    assert "avalanche_vlm.training.recipes.registry" not in sys.modules


def test_a_recipe_is_described_with_its_options_and_published_settings(capsys):
    text = told(capsys, "recipes", "zscl")
    described = json.loads(told(capsys, "recipes", "zscl", "--json"))
    assert described == recipes.describe("zscl").as_json()
    for fact in ("family: CREG", "arXiv 2303.06628", "needs: reference", "a number of 0 or more", "batch_size: 64"):
        assert fact in text
    assert all(option["name"] in text for option in described["options"])


@pytest.mark.parametrize("name", recipes.list())
def test_no_marks_of_a_docstring_reach_a_terminal(capsys, name):
    text = told(capsys, "recipes", name)
    assert "`" not in text and ":class:" not in text and "avalanche_vlm." not in text


def test_marks_in_what_is_no_prose_stay(capsys, monkeypatch):
    monkeypatch.setattr(benchmarks.registry.BENCHMARKS, "_registered", dict(benchmarks.registry.BENCHMARKS._known))

    @benchmarks.register("quoted", kind="classes", summary="at 10:30:`x`, see :class:`a gate <a.b.Gate>` and ``b``")
    def quoted(seed: int = 0, *, mark: str = "``a`` :class:`b`"): ...

    text = told(capsys, "benchmarks", "quoted")
    assert "mark: ``a`` :class:`b`" in text and "summary: at 10:30:`x`, see a gate and b\n" in text
    assert "  at 10:30:`x`, see a gate and b\n" in told(capsys, "benchmarks")


def test_a_benchmark_a_format_and_a_model_are_described(capsys):
    text = told(capsys, "benchmarks", "picturebook")
    assert "label_spaces: task, seen, union" in text and "  n_train: 640" in text
    assert json.loads(told(capsys, "benchmarks", "picturebook", "--json")) == benchmarks.describe("picturebook")
    assert "files: .csv" in told(capsys, "formats", "csv")
    assert "pretrained: shipped, random" in told(capsys, "models", "tiny")
    text = told(capsys, "models", "ViT-B-16")
    assert "pixels: 224" in text and "width: 512" in text and "openai" in text


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("recipes", "no recipe is called 'zcsl' (did you mean zscl?); there are "),
        ("benchmarks", "no benchmark is called 'zcsl'; there are picturebook, "),
        ("formats", "no format is called 'zcsl'; there are class-folder, csv, tsv, jsonl"),
        ("models", "no model is called 'zcsl'; there are tiny and open_clip's"),
    ],
)
def test_a_name_that_is_not_there_is_one_sentence(capsys, what, sentence):
    assert cli.main(["list", what, "zcsl"]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("avalanche-vlm: ") and sentence in err and "\n" not in err


def test_what_is_brought_from_outside_is_listed(capsys, monkeypatch):
    monkeypatch.setattr(benchmarks.registry.BENCHMARKS, "_registered", dict(benchmarks.registry.BENCHMARKS._known))
    monkeypatch.setattr(registry.FORMATS, "_registered", dict(registry.FORMATS._known))
    register_format(Format("pipes", "fields separated by |", (".pipes",), lambda path, problems: iter(())))

    @benchmarks.register("nights", kind="classes", summary="two nights")
    def nights(seed: int = 0, *, moons: int = 1): ...

    assert "pipes" in told(capsys, "formats") and "two nights" in told(capsys, "benchmarks")
    assert "moons: 1" in told(capsys, "benchmarks", "nights")
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert "nights" in capsys.readouterr().out
