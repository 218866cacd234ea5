"""Every number of every command: what is written can be meant, or there is one sentence that names the option."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from functools import cache
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.commands.arguments import parse, values
from avalanche_vlm.commands.arguments.parser import _parser
from avalanche_vlm.commands.requests.parts import within
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.settings import TrainSettings


@cache
def asked() -> list[tuple[str, argparse.Action]]:
    found = []
    for name, parser in _parser()[1].items():
        for action in parser._actions:
            if isinstance(action.type, values.NumberWord):
                found.append((name, action))
    return found


WORDS = st.one_of(
    st.integers(min_value=-(10**40), max_value=10**40).map(str),
    st.integers(min_value=1, max_value=6000).map(lambda n: "9" * n),
    st.integers(min_value=1, max_value=6000).map(lambda n: "0" * n + "1"),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.sampled_from(("1e39", "1e400", "-0", "-1", "0x10", "1_000", "٣", " 5 ", "", "none", "inf", "0,0", "1,,2", "+7")),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
)
"""What may stand where a number should."""


def test_every_number_has_a_type_that_says_what_it_may_be():
    found = asked()
    assert len(found) > 60
    for name, parser in _parser()[1].items():
        for action in parser._actions:
            known = action.type in (None, values.names, values.rate) or isinstance(action.type, values.NumberWord)
            assert known, f"{name} {action.option_strings} takes what nobody has declared"


def test_every_declared_number_is_taken_somewhere_or_said_to_be_pythons_alone():
    taken = {action.type.number.name for _, action in asked()}
    assert set(NUMBERS) - taken == {"n_experiences"}


def test_words_on_defaults_are_those_of_the_defaults():
    fields = {**{f.name: f.default for f in dataclasses.fields(TrainSettings)}, "checkpoint_minutes": 10.0}
    for name, default in fields.items():
        if name in NUMBERS and NUMBERS[name].unset.isdecimal():
            assert float(NUMBERS[name].unset) == default, name
    for _, action in asked():
        told = action.type.number.unset
        if told.replace(".", "").isdecimal() and action.default not in (None, [0]):
            assert float(told) == action.default, action.option_strings


@pytest.mark.parametrize("name", list(NUMBERS))
def test_a_stored_request_has_the_range_of_the_command_line(name):
    number = NUMBERS[name]
    stored = TypeAdapter(Annotated[int if number.whole else float, within(name)])
    for value in (number.least, number.most, number.least - 1, number.most * 2 + 1, math.inf, math.nan, 1):
        value = int(value) if number.whole and math.isfinite(value) else value
        try:
            stored.validate_python(value)
            taken = True
        except ValidationError:
            taken = False
        assert taken == (number.fault(value) is None), value


@given(name=st.sampled_from(sorted(NUMBERS)), word=st.text(max_size=6) | st.integers().map(str) | st.floats().map(repr))
@settings(max_examples=300, deadline=None)
def test_what_is_read_is_in_the_range(name, word):
    try:
        value = NUMBERS[name].read(word)
    except InputError:
        return
    assert value is None or NUMBERS[name].fault(value) is None


ABSURD = ("9" * 25, "1e39", "-1", "nan", "9" * 5000, "1e400", "inf", "", "0x10", "one")
EVERYTHING = """
import contextlib, functools, io, itertools, json, sys, time
from avalanche_vlm import cli
from avalanche_vlm.commands.arguments import parser
from avalanche_vlm.catalogue import catalogue

needs = {"diff": ["x", "v1", "v2"], "predict": ["x", "y"], "retrieve": ["x"], "update": ["x"], "diagnose": ["x"]}
needs["serve"] = ["x"]
needs["export"] = ["x", "--to", "peft", "--out", "y"]

def ends(words):
    said, began = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = ended.code
    last = said.getvalue().strip().splitlines()[-1][-400:]
    return code, last, time.process_time() - began, "torch" in sys.modules

parser._parser = functools.cache(parser._parser)  # which is most of the time that all of this takes
found = []
absurd = itertools.cycle(json.loads(sys.argv[1]))
for command, option in json.loads(sys.argv[2]):
    words = [command, *needs.get(command, ["--out", "x"])]
    for word in (next(absurd), next(absurd), next(absurd)):
        found.append([f"{command} {option}={word[:30]}", option, *ends([*words, f"{option}={word}"])])
for recipe in catalogue():
    for option, told in recipe.options.items():
        if '"type": "integer"' in json.dumps(told["schema"]):
            word = next(absurd)
            words = ["run", "--recipe", recipe.name, "--out", "x", "--set", f"{option}={word}"]
            found.append([f"{recipe.name} {option}={word[:30]}", option, *ends(words)])
print(json.dumps(found))
"""


def test_every_absurd_number_of_every_command_and_recipe_ends_in_a_sentence_at_once_and_without_torch(tmp_path):
    options = [(command, action.option_strings[0]) for command, action in asked()]
    ran = subprocess.run(
        [sys.executable, "-c", EVERYTHING, json.dumps(ABSURD), json.dumps(options)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    assert len(found) > 350 and not list(tmp_path.iterdir())
    for what, option, code, said, seconds, torch in found:
        assert code == 2 and option in said and seconds < 1 and not torch, (what, code, said, seconds, torch)


@given(data=st.data(), word=WORDS)
@settings(max_examples=300, deadline=None)
def test_a_word_is_a_number_that_can_be_meant_or_one_sentence(data, word):
    _, action = data.draw(st.sampled_from(asked()))
    try:
        value = action.type(word)
    except argparse.ArgumentTypeError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
        return
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, int):
            assert 0 <= one < 2**64
        elif isinstance(one, float):
            assert 0 <= one <= 1e18 and math.isfinite(one)
        else:
            assert one is None or one == "none"


@pytest.mark.parametrize("word", ["9" * 5000, "1e39", "nan", "-1", "99999999999999999999999"])
def test_a_command_ends_with_usage_and_a_sentence_of_the_option(word, capsys):
    for option in ("--lr", "--epochs", "--n-held-out", "--seed", "--threads", "--workers", "--image-size"):
        with pytest.raises(SystemExit) as ended:
            parse(["run", "--out", "x", f"{option}={word}"])
        said = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2 and f"argument {option}: " in said and len(said) < 250


NAMES = ("lr", "epochs", "batch_size", "weight_decay", "warmup", "max_grad_norm", "label_smoothing", "num_workers")


@given(
    name=st.sampled_from(NAMES),
    value=st.one_of(st.integers(-(10**40), 10**40), st.floats(), st.sampled_from((True, "1", 10**5000, [1]))),
)
@settings(max_examples=300, deadline=None)
def test_settings_are_numbers_that_can_be_meant_or_one_sentence(name, value):
    try:
        assert 0 <= getattr(TrainSettings(**{name: value}), name) <= 1e18
    except InputError as error:
        assert name in str(error) and len(str(error)) < 200
