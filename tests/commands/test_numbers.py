"""Every number of every command: what is written can be meant, or there is one sentence that names the option."""

from __future__ import annotations

import argparse
import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.commands.arguments import parse, values
from avalanche_vlm.commands.arguments.parser import _parser
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.settings import LARGEST, TrainSettings

NUMBERS = (
    values.count,
    values.positive,
    values.seed_number,
    values.seed_numbers,
    values.threads,
    values.workers,
    values.rate,
    values.minutes,
)


@cache
def asked() -> list[tuple[str, argparse.Action]]:
    found = []
    for name, parser in _parser()[1].items():
        for action in parser._actions:
            own = getattr(action.type, "__module__", "").startswith("avalanche_vlm.commands.arguments")
            if own and action.type is not values.names:
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
    for name, action in found:
        own = action.type in NUMBERS or action.type.__module__.endswith("arguments.living")
        assert own, f"{name} {action.option_strings}"
    for name, parser in _parser()[1].items():
        for action in parser._actions:
            assert action.type not in (int, float), f"{name} {action.option_strings} takes numbers without a range"


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
            assert 0 <= one <= LARGEST and math.isfinite(one)
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
        assert 0 <= getattr(TrainSettings(**{name: value}), name) <= LARGEST
    except InputError as error:
        assert name in str(error) and len(str(error)) < 200
