"""Options of all recipes: what is in the declared range is taken, what is outside is refused by name."""

from __future__ import annotations

import copy
import json
import math
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import tiny as tiny_vlm
from pydantic import Field
from pydantic.fields import FieldInfo

from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes.options import options_of

OPTIONS = [(name, option) for name in recipes.list() for option in recipes.get(name).options]
BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")
MOST = 12
"""Counts that are drawn go this far beyond their least value: what is built of them has to fit in memory."""
WORDS: dict[tuple[str, str], st.SearchStrategy[str]] = {
    ("adapter-per-task", "router"): st.sampled_from(["prototype", "kmeans", "mixture"]),
    ("moe-adapters", "router"): st.sampled_from(["autoencoder", "gaussian"]),
    ("c-clip", "attention"): st.sampled_from(["", "q", "out", "q,k, v"]),
    ("latent-replay", "layer"): st.sampled_from(["", "transformer.resblocks.1"]),
}
"""Texts that stand for something; others are free, or name a folder."""


def parts_of(annotation: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The types that an annotation allows, with the bounds of each."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for alternative in get_args(annotation) for part in parts_of(alternative)]
    if get_origin(annotation) is Annotated:
        base, *rest = get_args(annotation)
        found = [item for part in rest for item in (part.metadata if isinstance(part, FieldInfo) else [part])]
        bounds = {name: getattr(item, name) for item in found for name in BOUNDS if hasattr(item, name)}
        return [(base, bounds)]
    return [(annotation, {})]


def inside(name: str, option: str) -> st.SearchStrategy[Any]:
    """Values that the declared type and range allow."""
    found = []
    for base, bounds in parts_of(recipes.get(name).option(option).annotation):
        if base is bool:
            found.append(st.booleans())
        elif base is int:
            step = bounds.get("multiple_of", 1)
            low = bounds.get("ge", bounds.get("gt", 0))
            high = min(bounds.get("le", low + MOST), low + MOST)
            found.append(st.integers(-(-low // step), high // step).map(lambda n, step=step: n * step))
        elif base is float:
            low, high = bounds.get("ge", bounds.get("gt", 0.0)), bounds.get("le", bounds.get("lt", 1e6))
            open_ends = {"exclude_min": "gt" in bounds, "exclude_max": "lt" in bounds}
            found.append(st.floats(low, high, allow_nan=False, **open_ends))
        elif get_origin(base) is Literal:
            found.append(st.sampled_from(get_args(base)))
        elif base is str:
            found.append(WORDS.get((name, option), st.just("")))
        elif base is type(None):
            found.append(st.none())
        else:
            raise AssertionError(f"{name}.{option}: no recipe has an option of the type {base}")
    return st.one_of(found)


def outside(name: str, option: str) -> st.SearchStrategy[Any]:
    """Values that are of no allowed type, or out of range."""
    parts = parts_of(recipes.get(name).option(option).annotation)
    kinds = {base for base, _ in parts}
    found: list[st.SearchStrategy[Any]] = [st.just([1]), st.just({})]
    found.append(st.sampled_from([0, 1, "perhaps"]) if bool in kinds else st.booleans())
    if type(None) not in kinds:
        found.append(st.none())
    for base, bounds in parts:
        if base in (int, float):
            found += [st.sampled_from([math.nan, math.inf, -math.inf]), st.text(), st.just("1")]
            number = st.integers if base is int else st.floats
            if "ge" in bounds or "gt" in bounds:
                low = bounds.get("ge", bounds.get("gt"))
                found.append(number(max_value=low).filter(lambda x, low=low, open="gt" in bounds: x < low or open))
            if "le" in bounds or "lt" in bounds:
                high = bounds.get("le", bounds.get("lt"))
                found.append(number(min_value=high).filter(lambda x, high=high, open="lt" in bounds: x > high or open))
            if base is int:
                found.append(st.floats(0.1, 0.9))
            if "multiple_of" in bounds:
                found.append(st.integers(1, 99).map(lambda n: 2 * n + 1))
        elif get_origin(base) is Literal:
            found.append(st.text().filter(lambda text, base=base: text not in get_args(base)))
        elif base is str:
            found.append(st.integers())
    return st.one_of(found)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_what_is_in_range_is_taken_from_python_and_from_text(name, option, data):
    value = data.draw(inside(name, option))
    declared = recipes.get(name).option(option)
    assert declared.check(value) == value
    parsed = recipes.parse_options(name, {option: "none" if value is None else str(value)})
    assert parsed == {option: value} and type(parsed[option]) is type(declared.check(value))


@pytest.mark.parametrize(("name", "option"), OPTIONS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_what_is_out_of_range_is_refused_in_one_sentence(name, option, data):
    value = data.draw(outside(name, option))
    with pytest.raises(InputError) as refused:
        recipes.build(name, model=None, **{option: value})
    said = str(refused.value)
    assert said.startswith(f"recipe {name}: {option} is {recipes.get(name).option(option).accepts}, not ")
    assert len(said) < 300


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_defaults_are_in_range_and_every_option_is_described(name, option):
    declared = recipes.get(name).option(option)
    assert declared.check(declared.default) == declared.default
    (described,) = (found for found in recipes.describe(name).options if found.name == option)
    assert len(described.description.split()) >= 3 and described.accepts and described.default == declared.default
    kinds = {base for base, _ in parts_of(declared.annotation)}
    # A number without a range takes what nobody meant.
    assert all(bounds for base, bounds in parts_of(declared.annotation) if base in (int, float)), kinds


FITS = {
    # What a tower of four blocks, or one text of 20 tokens, has no room for is refused by the part itself.
    "image_length": 4, "text_length": 2, "length": 2, "depth": 3, "shared_blocks": 2, "words": 6,
}  # fmt: skip
TOGETHER = {"l2p": ("chosen", "size"), "moe-adapters": ("k", "experts")}
"""Options of which the first is at most the second."""


@pytest.mark.parametrize("name", recipes.list())
@given(data=st.data())
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_in_range_build(name, data, random_model, tiny_benchmark):
    chosen = recipes.get(name)
    options = {}
    for option in chosen.options:
        value = data.draw(inside(name, option), label=option)
        fits = FITS.get(option)
        options[option] = min(value, fits) if fits is not None and isinstance(value, int) else value
        if option == "max_bytes" and value is not None:  # how much one sample takes depends on the stream
            options[option] += 100_000
    if name in TOGETHER:
        less, more = TOGETHER[name]
        options[less] = min(options[less], options[more])
    resources = {what: getattr(tiny_benchmark, what) for what in chosen.takes}
    plugins = recipes.build(name, model=copy.deepcopy(random_model), **resources, **options)
    assert isinstance(plugins, list)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("lwf", {"temperature": 0}, "recipe lwf: temperature is a number above 0, not 0"),
        ("lwf", {"weight": -5}, "recipe lwf: weight is a number of 0 or more, not -5"),
        ("zscl", {"side": "foo"}, "recipe zscl: side is image, text or both, not 'foo'"),
        ("lora", {"rank": 2.5}, "recipe lora: rank is a whole number from 1 to 8192, not 2.5"),
        ("lora", {"rank": "8"}, "recipe lora: rank is a whole number from 1 to 8192, not '8'"),
        ("lora", {"rank": True}, "recipe lora: rank is a whole number from 1 to 8192, not True"),
        ("lora", {"rank": None}, "recipe lora: rank is a whole number from 1 to 8192, not None"),
        ("lora", {"alpha": 0.0}, "recipe lora: alpha is a number above 0, or None, not 0.0"),
        ("replay", {"quality": 101}, "recipe replay: quality is a whole number from 1 to 100, not 101"),
        ("coda-prompt", {"length": 3}, "length is a whole number from 2 to 1000, a multiple of 2, not 3"),
        ("gift", {"label_smoothing": 1}, "label_smoothing is a number of 0 or more and below 1, not 1"),
    ],
)
def test_sentences(name, options, sentence):
    with pytest.raises(InputError) as refused:
        recipes.build(name, model=None, **options)
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize(
    ("name", "option", "text", "value"),
    [
        ("lora", "rank", "8", 8),
        ("lora", "rank", "8.0", 8),
        ("lora", "alpha", "null", None),
        ("lwf", "weight", "3", 3.0),
        ("lwf", "weight", "1e-3", 1e-3),
        ("replay", "folder", "123", "123"),
        ("replay", "folder", "none", "none"),
        ("replay", "codec", '"png"', "png"),
        ("latent-replay", "layer", "7", "7"),
    ],
)
def test_texts_stand_for_values(name, option, text, value):
    found = recipes.parse_options(name, {option: text})[option]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "option", "text"),
    [
        *[("lora", "rank", text) for text in ("abc", "", "2.5", "none", "true", "0", "nan")],
        *[("lwf", "weight", text) for text in ("nan", "inf", "-1", "true", "three")],
        *[("zscl", "side", text) for text in ("foo", "", "Image")],
    ],
)
def test_texts_that_stand_for_nothing_are_refused(name, option, text):
    with pytest.raises(InputError, match=f"recipe {name}: {option} is .*, not {text or chr(39) * 2}$"):
        recipes.parse_options(name, {option: text})


def test_an_unknown_option_is_named_with_those_there_are():
    for ask in (
        lambda: recipes.build("lora", model=None, range=1),
        lambda: recipes.parse_options("lora", {"range": ""}),
    ):
        with pytest.raises(
            InputError, match="recipe lora has no option 'range'; it has rank, alpha, quantile, shrinkage"
        ):
            ask()


def test_any_type_that_pydantic_knows_can_be_an_option():
    def compose(
        model, *, steps: list[int] | None = None, fast: bool = False, free=3, low: Annotated[int, Field(le=9)] = 1
    ):
        return []

    options = options_of("own", compose, {})
    assert options["steps"].parse("[1, 2]") == [1, 2] and options["steps"].accepts == "a list, or None"
    assert options["fast"].parse("true") is True and options["fast"].parse("False") is False
    assert options["fast"].accepts == "true or false"
    assert options["free"].check("anything") == "anything"
    assert options["low"].accepts == "a whole number at most 9"
    for option, text in (("steps", "1"), ("fast", "maybe"), ("low", "10")):
        with pytest.raises(InputError, match=f"recipe own: {option} is"):
            options[option].parse(text)
    with pytest.raises(InputError, match="recipe own: fast is true or false, not 1"):
        options["fast"].check(1)


def test_signatures_that_cannot_be_read_are_refused():
    def without(model, *, rank):
        return []

    def catching(model, **options):
        return []

    def unknown(model, *, rank: Unknown = 1):  # noqa: F821
        return []

    for compose, said in (
        (without, "option rank has no default"),
        (catching, r"not caught by \*options"),
        (unknown, "the type of option rank, Unknown, is unknown"),
    ):
        with pytest.raises(InputError, match=f"recipe own: .*{said}"):
            options_of("own", compose, {})


def test_the_value_that_was_checked_is_the_one_that_is_used():
    torch.manual_seed(0)
    (plugin,) = recipes.build("wise-ft", model=tiny_vlm("random"), weight=1)
    assert plugin.weight == 1.0 and isinstance(plugin.weight, float)


@pytest.fixture
def taken():
    """What a recipe with an option of every sort is built with."""
    got = {}
    some = ["a"]

    def many(
        model, *, number: int = 1, rate: float = 0.5, flag: bool = False, text: str = "x", choice: Literal[1, 2] = 1,
        names: tuple[str, ...] = ("a",), more: list[str] = some, where: Path = Path("here"), loose=0.5,
    ) -> list:  # fmt: skip
        got.update(locals())
        return []

    recipes.recipe("many", family="CREG", summary="options of all sorts")(many)
    yield got
    recipes.forget("many")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("number", np.int64(8), 8),
        ("number", torch.tensor(8), 8),
        ("rate", np.float32(0.5), 0.5),
        ("rate", np.float64(0.25), 0.25),
        ("rate", torch.tensor(0.5), 0.5),
        ("rate", np.int32(2), 2.0),
        ("flag", np.True_, True),
        ("text", np.str_("y"), "y"),
        ("choice", 2, 2),
        ("names", ["b", "c"], ("b", "c")),
        ("names", np.array(["b", "c"]), ("b", "c")),
        ("more", ("b",), ["b"]),
        ("where", "there", Path("there")),
        ("loose", np.float32(0.25), 0.25),
    ],
)
def test_values_as_numpy_torch_and_stored_requests_have_them(taken, option, value, expected):
    recipes.build("many", model=None, **{option: value})
    assert taken[option] == expected and type(taken[option]) is type(expected)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("number", np.float32(8)), ("number", np.True_), ("number", "8"), ("number", torch.ones(2)),
        ("rate", np.True_), ("rate", torch.tensor(True)), ("rate", np.nan), ("rate", 10**400), ("rate", np.ones(2)),
        ("flag", np.int64(1)), ("choice", True), ("names", "bc"), ("text", Path("y")),
    ],
)  # fmt: skip
def test_values_of_another_kind_stay_refused(taken, option, value):
    with pytest.raises(InputError, match=f"recipe many: {option} is "):
        recipes.build("many", model=None, **{option: value})


def test_an_option_without_a_type_takes_numbers_from_the_command_line(taken):
    texts = {"0.25": 0.25, "8": 8, "true": True, "none": None, "word": "word", "NaN": "NaN", "1e400": "1e400"}
    for text, value in texts.items():
        assert recipes.parse_options("many", {"loose": text}) == {"loose": value}


def test_true_on_the_command_line_is_no_number(taken):
    with pytest.raises(InputError, match="choice is 1 or 2, not true"):
        recipes.parse_options("many", {"choice": "true"})


def test_options_of_any_type_are_written_as_json(taken):
    assert json.loads(json.dumps(recipes.describe("many").as_json()))["options"][-2]["default"] == "here"
    stored = recipes.all_options("many", {"loose": np.float32(0.5), "names": ("b",)})
    assert json.loads(json.dumps(stored)) == stored and stored["where"] == "here" and stored["names"] == ["b"]


def test_the_sentence_on_a_value_of_several_lines_has_one():
    with pytest.raises(InputError, match=r"^recipe magmax: scale is a number above 0, or None, not bo th$"):
        recipes.parse_options("magmax", {"scale": "bo\n\n\nth"})
    with pytest.raises(InputError, match=r"not '\\n'$"):
        recipes.parse_options("magmax", {"scale": "\n"})
