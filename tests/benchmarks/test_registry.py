"""Benchmarks by name: shipped, from the user's own code, from another distribution."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from made import tiny as tiny_vlm

from avalanche_vlm import benchmarks
from avalanche_vlm._registry import Registry
from avalanche_vlm.benchmarks import picturebook, registry
from avalanche_vlm.errors import InputError

SMALL = {"n_train": 8, "n_test": 6, "n_held_out": 8, "n_reference": 8}


@pytest.fixture
def fresh(monkeypatch):
    """The registry, without what a test adds to it afterwards."""
    monkeypatch.setattr(registry.BENCHMARKS, "_registered", dict(registry.BENCHMARKS._known))
    monkeypatch.setattr(registry.BENCHMARKS, "_outside", None)


def test_every_declaration_fits_its_factory():
    drawn = benchmarks.list(family="picturebook")
    built = {registry.get_benchmark(name).build() for name in drawn}
    assert built == {getattr(picturebook, name) for name in picturebook.__all__}
    for name in drawn:
        assert json.loads(json.dumps(benchmarks.describe(name)))["options"]["n_train"] == 640
    for name in benchmarks.list():
        declared, options = registry.get_benchmark(name), registry.get_benchmark(name).options()
        assert declared.order is None or declared.order in options
        assert ("label_space" in options) == bool(declared.label_spaces)
        if declared.label_spaces:
            assert options["label_space"] == declared.label_spaces[0]
        assert declared.summary and declared.source and declared.family
        assert json.loads(json.dumps(benchmarks.describe(name)))["summary"] == declared.summary


def test_a_benchmark_is_read_as_the_model_reads():
    model = tiny_vlm()
    stream = benchmarks.create("picturebook-pairs", model=model, domains=("night",), **SMALL)
    assert stream.kind == "pairs" and stream.task_names == ("night",)
    transform = stream.held_out[0].dataset.transform
    assert transform.image is model.transforms.eval and transform.tokenizer is model.tokenizer
    alone = benchmarks.create("picturebook", order=["night"], seed=3, **SMALL)
    assert alone.protocol["seed"] == 3 and alone.name == "picturebook-mtil"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("picturebok", {}, r"no benchmark is called 'picturebok' \(did you mean picturebook or "),
        ("picturebook-time", {"order": ["a"]}, "benchmark picturebook-time has no option 'order'; it has seed, "),
        ("picturebook", {"order": ["dusk"]}, "no task is called 'dusk'"),
        ("picturebook", {"seed": -1}, "non-negative"),
    ],
)
def test_unusable_input_is_one_sentence(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        benchmarks.create(name, **options)


def test_kinds_are_told_apart_and_checked():
    captions = ["coco-karpathy", "flickr30k", "modx-coco-flickr", "c-clip-8"]
    dated = benchmarks.list("pairs", family="time-incremental")
    assert benchmarks.list("pairs") == ["picturebook-pairs", *captions, *dated] == [
        *benchmarks.list("pairs", family="picturebook"), *benchmarks.list(family="image-text"), *dated
    ]  # fmt: skip
    assert set(benchmarks.list("classes")) | set(benchmarks.list("pairs")) == set(benchmarks.list())
    with pytest.raises(InputError, match="kind is classes or pairs, not 'videos'"):
        benchmarks.list("videos")


def test_one_from_outside_is_one_declaration(fresh):
    @benchmarks.register("nights", kind="classes", summary="two nights", label_spaces=("task",), order=None)
    def nights(seed: int = 0, *, train_transform=None, eval_transform=None):
        return picturebook.mtil_like(seed, order=["night"], eval_transform=eval_transform, **SMALL)

    assert "nights" in benchmarks.list() and benchmarks.describe("nights")["options"] == {"seed": 0}
    assert benchmarks.create("nights", model=tiny_vlm(), seed=2).protocol["seed"] == 2
    with pytest.raises(InputError, match="a benchmark called 'nights' is registered already"):
        benchmarks.register("nights", kind="pairs", summary="")(nights)
    with pytest.raises(InputError, match="kind is classes or pairs, not 'videos'"):
        benchmarks.register("days", kind="videos", summary="")(nights)
    with pytest.raises(InputError, match="a label space is task, seen or union, not 'all'"):
        benchmarks.register("days", kind="classes", summary="", label_spaces=("all",))(nights)


def entry_point(monkeypatch, name: str, value: str) -> None:
    points = metadata.EntryPoints([metadata.EntryPoint(name, value, "avalanche_vlm.benchmarks")])
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points.select(group=group))


def test_another_distribution_brings_one(fresh, monkeypatch, tmp_path):
    (tmp_path / "birds.py").write_text(
        "from avalanche_vlm.benchmarks import Benchmark\n"
        "BIRDS = Benchmark('birds', 'classes', 'many birds', 'birds:build')\n"
        "OTHER = Benchmark('fish', 'classes', 'many fish', 'birds:build')\n"
        "def build(seed=0, *, country='fr'): raise ValueError('no birds in ' + country)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry_point(monkeypatch, "birds", "birds:BIRDS")
    assert benchmarks.list()[-1] == "birds" and benchmarks.describe("birds")["options"] == {"seed": 0, "country": "fr"}
    with pytest.raises(InputError, match="no birds in nz"):
        benchmarks.create("birds", country="nz")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("birds", "no_such_module:BIRDS", r"the benchmark 'birds' \(no_such_module:BIRDS, .*\) does not load: Module"),
        ("birds", "json:dumps", "is no Benchmark but a function"),
        ("birds", "avalanche_vlm.benchmarks.picturebook.declarations:MONTHS", "calls itself 'picturebook-time'"),
        ("picturebook", "json:dumps", "two benchmarks are called 'picturebook': json:dumps and "),
    ],
)
def test_a_broken_distribution_is_named(fresh, monkeypatch, name, value, sentence):
    entry_point(monkeypatch, name, value)
    with pytest.raises(InputError, match=sentence):
        registry.get_benchmark("birds")


def test_two_distributions_cannot_claim_one_name(monkeypatch):
    points = metadata.EntryPoints([metadata.EntryPoint("a", f"json:{f}", "some.group") for f in ("dump", "load")])
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points.select(group=group))
    with pytest.raises(InputError, match="two things are called 'a': json:load and"):
        Registry("thing", int, "some.group").names()


def test_a_benchmark_that_needs_an_option(fresh):
    @benchmarks.register("rooted", kind="classes", summary="from a folder")
    def rooted(*, root: str, n: int = 3, model=None):
        return root, n

    with pytest.raises(InputError, match="benchmark rooted needs the option 'root'"):
        benchmarks.create("rooted")
    with pytest.raises(InputError, match="takes int as n, not 'many'"):
        benchmarks.create("rooted", root="here", n="many")
    assert benchmarks.create("rooted", root="here", model=tiny_vlm()) == ("here", 3)


def test_a_factory_that_takes_whatever_it_is_given(fresh):
    @benchmarks.register("open", kind="classes", summary="anything goes")
    def open_to_all(**options):
        return options

    assert benchmarks.create("open", depth=3) == {"depth": 3}
    assert benchmarks.describe("open")["options"] == {}


@pytest.mark.parametrize(
    "facts",
    [
        {"name": ""},
        {"name": "two words"},
        {"name": None},
        {"summary": None},
        {"summary": "two\nlines"},
        {"colour": "red"},
    ],
)
def test_declarations_that_cannot_be_meant(fresh, facts):
    with pytest.raises(InputError):
        benchmarks.register(**{"name": "odd", "kind": "classes", "summary": "a stream", **facts})(lambda: None)
    assert "odd" not in benchmarks.list()


@pytest.mark.parametrize("factory", ["no.such.module:stream", "math:no_such", "math"])
def test_a_factory_that_cannot_be_had_is_named(fresh, factory):
    registry.BENCHMARKS.add(registry.Benchmark("lost", "classes", "a stream", factory))
    for ask in (benchmarks.create, benchmarks.describe):
        with pytest.raises(InputError, match=f"benchmark lost: its factory {factory} cannot be had"):
            ask("lost")


def test_one_that_does_not_load_does_not_take_the_others_with_it(fresh):
    registry.BENCHMARKS._outside = {
        "broken": metadata.EntryPoint("broken", "no.such:thing", "avalanche_vlm.benchmarks")
    }
    with pytest.warns(UserWarning, match="'broken' .* does not load: .*left out"):
        assert [found.name for found in registry.BENCHMARKS] == benchmarks.list()[:-1]
    with pytest.raises(InputError, match="does not load"):
        benchmarks.create("broken")


@pytest.mark.parametrize("wrong", [0, -3, 2.5, None, True, "many"])
@pytest.mark.parametrize("option", ["n_train", "n_test", "n_held_out", "n_reference"])
def test_sizes_of_the_picturebook_are_counts(option, wrong):
    for name in ("picturebook", "picturebook-pairs"):
        with pytest.raises(InputError, match=option):
            benchmarks.create(name, **{**SMALL, option: wrong})
