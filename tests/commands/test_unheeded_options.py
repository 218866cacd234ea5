"""Every option on the stream of tasks, beside data of every kind: it changes what is trained or measured, or it is
refused by name. The options are the parser's own, so that one that comes later cannot be left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import tiny

from avalanche_vlm.benchmarks.fingerprint import data_of, label_space_of, reference_of
from avalanche_vlm.commands import prepare
from avalanche_vlm.commands.arguments.parser import _parser, parse
from avalanche_vlm.commands.checks import check
from avalanche_vlm.errors import InputError

NAMED = {
    "benchmark": "picturebook-domains",
    "root": "{d}",
    "data": "{d}/other.csv",
    "label_space": "union",
    "order": "b,a",
    "template": "one {{}}",
    "reference": "{d}/captions.csv",
    "generator": "none/at-all",
    "data_seed": "5",
    "n_train": "9",
    "n_test": "9",
    "n_held_out": "9",
    "n_reference": "9",
    "shots": "2",
    "held_out": "{d}/other.csv",
    "held_out_root": "{d}",
    "option": "test_fraction=0.5",
    "class_names": "{d}/names.txt",
    "kind": "pairs",
    "image_root": "{d}/elsewhere",
    "split_classes": "1",
    "class_order": "sorted",
    "image_column": "image2",
    "label_column": "label2",
    "caption_column": "caption2",
    "task_column": "task2",
    "split_column": "split2",
    "domain_column": "task2",
    "time_column": "year",
    "steps": "2",
}
"""A value of each option that reads the data otherwise where it is heeded."""

FINDS_NOTHING = {
    "full": "of sizes, which are said here",
    "on_error": "of faults, which these data do not have",
    "check": "as above",
    "check_workers": "as above",
}
"""Options that need not change whole data, or those of a benchmark."""

SMALL = "--n-train 8 --n-test 8 --n-held-out 8 --n-reference 8"
STREAMS = {
    "labels": "--data {d}/labels.csv",
    "captions": "--data {d}/captions.csv",
    "classes of both": "--data {d}/both.csv --kind classes",
    "pairs of both": "--data {d}/both.csv --kind pairs",
    "its own split": "--data {d}/split.csv",
    "absolute paths": "--data {d}/absolute.csv",
    "a folder": "--data {d}/folder",
    "a split folder": "--data {d}/parts",
    "a benchmark": f"--benchmark picturebook {SMALL} --order night,sketches",
    "a benchmark of pairs": f"--benchmark picturebook-pairs {SMALL} --order night,sketch",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    from PIL import Image

    d = tmp_path_factory.mktemp("data")
    places = ["", "elsewhere/", *(f"folder/{t}/{c}/" for t in "ab" for c in "xy")]
    places += [f"parts/{split}/{c}/" for split in ("train", "test") for c in "xy"]
    for number, place in enumerate(places):
        (d / place).mkdir(parents=True, exist_ok=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (30 * i, 20 * number, 0)).save(d / place / f"{i}.png")
    common = "image,image2,task2,year"
    outer = [int(i // 2 in (0, 3)) for i in range(8)]
    rows = [f"{i}.png,{(i + 1) % 8}.png,{'ab'[outer[i]]},{2000 + outer[i]}" for i in range(8)]
    labels, captions = [f"{i % 2},n{i // 2 % 2}" for i in range(8)], [f"red {i},blue {i}" for i in range(8)]
    splits = [f"{('train', 'test')[i // 4]},{('train', 'test')[outer[i]]},{'ab'[i // 2 % 2]}" for i in range(8)]

    def table(name: str, header: str, *columns: list[str]) -> None:
        (d / name).write_text("\n".join([header, *map(",".join, zip(*columns, strict=True))]))

    table("labels.csv", f"{common},label,label2,split2", rows, labels, [of.split(",")[1] for of in splits])
    table("other.csv", f"{common},label,label2", rows[::-1], labels)
    table("captions.csv", f"{common},caption,caption2", rows, captions)
    table("both.csv", f"{common},label,label2,caption,caption2", rows, labels, captions)
    table("split.csv", f"{common},label,label2,split,split2,task", rows, labels, splits)
    table("absolute.csv", f"{common},label,label2", [f"{d}/{row}" for row in rows], labels)
    (d / "names.txt").write_text("star\nring\n")
    return d


def options_of_streams() -> dict[str, str]:
    """The options of a run that say which stream it has, by their names in Python."""
    groups = {group.title: group for group in _parser()[1]["run"]._action_groups}
    actions = [*groups["stream"]._group_actions, *groups["your own data (--data)"]._group_actions]
    return {action.dest: action.option_strings[-1] for action in actions}


def test_every_option_of_streams_has_a_value_here():
    assert {*NAMED, *FINDS_NOTHING} == set(options_of_streams())


def read_by(words: list[str], recipe: str) -> str:
    """What is trained and measured, without what the protocol repeats of the words."""
    _, request = parse(["run", "--recipe", recipe, "--out", "o", "--device", "cpu", *words])
    check(request)
    benchmark = prepare.stream_for(prepare.experiment(request, recipe, 0), MODEL)
    data, space = data_of(benchmark), benchmark.label_space
    classes = None if space is None else [space.visible, label_space_of(space)]
    reference = None if benchmark.reference is None else reference_of(benchmark.reference)["content"]
    brought = [reference, benchmark.generator is not None, [of.name for of in benchmark.held_out]]
    return json.dumps([data["content"], classes, benchmark.task_names, brought])


MODEL = tiny()
RECIPES = {"reference": "moe-adapters", "generator": "gift"}
"""Recipes that take what others refuse."""
SAID = {"kind": "no column", "benchmark": "two streams", "data": "two streams", "order": "no task called"}
"""What else than its name a refusal may say of an option."""


@pytest.mark.parametrize("stream", STREAMS)
def test_an_option_of_the_stream_is_heeded_or_refused_by_name(stream, data):
    base = STREAMS[stream].format(d=data).split()
    plain, unheeded = read_by(base, "zero-shot"), []
    for option, flag in options_of_streams().items():
        if option in FINDS_NOTHING and (option != "full" or "--benchmark" in base):
            continue
        value = NAMED.get(option, "").format(d=data)
        if option == "benchmark" and option in stream:  # the last one named is meant, whose tasks have other names
            continue
        if option == "order" and "--benchmark" in base:
            value = ",".join(reversed(base[-1].split(",")))
        if option == "kind" and ("pairs" in base or stream == "captions"):
            value = "classes"
        try:
            if read_by([*base, flag, *filter(None, [value])], RECIPES.get(option, "zero-shot")) == plain:
                unheeded.append(flag)
        except InputError as error:
            told = str(error)
            if not any(of in told for of in (option, flag, repr(value), SAID.get(option, flag))):
                unheeded.append(f"{flag}, refused with: {told}")
    assert not unheeded


def test_workers_that_have_nothing_to_check_are_refused(data):
    with pytest.raises(InputError, match="--check-workers does not apply to --check none"):
        read_by([*STREAMS["labels"].format(d=data).split(), "--check", "none", "--check-workers", "2"], "zero-shot")
