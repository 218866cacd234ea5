"""Declarations: what is refused, what is found again, and recipes from outside."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import warnings

import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes import AdamW, Paper, Published, Tuned, Unpublished, registry
from avalanche_vlm.training.recipes.ranges import Count


def empty(model, *, rank: Count = 2) -> list:
    """A recipe of nothing, beside :class:`Paper`.

    :class:`Paper` begins a line.

    :param rank: rank of nothing,
        on two lines.
    """
    return []


@pytest.fixture
def declare():
    """Declare recipes, which are forgotten afterwards."""
    declared = []

    def add(name: str, compose=empty, **facts):
        recipes.recipe(name, **{"family": "PEA", "summary": "nothing", **facts})(compose)
        declared.append(name)
        return recipes.get(name)

    yield add
    for name in declared:
        recipes.forget(name)


def test_a_declaration_is_found_with_its_facts(declare):
    published = Published("the paper", benchmark="MTIL", optimizer="AdamW", lr=2e-3, epochs=(1, 3), options={"rank": 4})
    declare(
        "own",
        kinds=["pairs"],
        paper=["2106.09685", Paper("ICLR 2030", "its name")],
        training=[published],
        picturebook=Tuned(1e-2, "tried", options={"rank": 1}),
    )
    assert recipes.list(family="PEA", kind="pairs")[-1] == "own" and "own" not in recipes.list(kind="classes")
    described = recipes.describe("own")
    assert described.papers == ("arXiv 2106.09685", "ICLR 2030 (its name)") and described.summary == "nothing"
    assert described.docstring == "A recipe of nothing, beside :class:`Paper`.\n\n:class:`Paper` begins a line."
    (option,) = described.options
    assert (option.name, option.type, option.accepts, option.default, option.description) == (
        "rank", "int", "a whole number from 1 to 1000000", 2, "rank of nothing, on two lines.",
    )  # fmt: skip
    plain = json.loads(json.dumps(described.as_json()))
    assert plain["training"] == [
        {"source": "the paper", "benchmark": "MTIL", "optimizer": "AdamW", "lr": 0.002, "epochs": [1, 3],
         "options": {"rank": 4}}
    ]  # fmt: skip
    assert plain["picturebook"]["options"] == {"rank": 1} and plain["needs"] == []


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"name": "a,b"}, "a recipe's name has letters, digits and hyphens, not 'a,b'"),
        ({"name": "a.b"}, "a recipe's name has letters, digits and hyphens, not 'a.b'"),
        ({"family": "CRAG"}, "recipe own: the family is none, MMRE, CREG, PEA, fusion, not 'CRAG'"),
        ({"kinds": ["images"]}, "recipe own: the kinds of streams are classes, pairs, not"),
        ({"kinds": []}, "recipe own: the kinds of streams are classes, pairs, not"),
        ({"summary": ""}, "recipe own: the summary is one phrase on one line, not ''"),
        ({"summary": "a\nb"}, "recipe own: the summary is one phrase on one line"),
        (
            {"picturebook": Tuned(1e-3, "", options={"rank": 0})},
            "recipe own: rank is a whole number from 1 to 1000000, not 0",
        ),
        ({"training": [Published("x", options={"depth": 1})]}, "recipe own has no option 'depth'; it has rank"),
    ],
)
def test_facts_out_of_place_are_refused(declare, facts, sentence):
    with pytest.raises(InputError) as refused:
        declare(**{"name": "own", **facts})
    assert sentence in str(refused.value) and facts.get("name", "own") not in recipes.list()


def test_published_settings_are_checked():
    with pytest.raises(InputError, match="name their source"):
        Published("")
    with pytest.raises(InputError, match="in epochs or in iterations, not in both"):
        Published("the paper", epochs=1, iterations=10)


def test_a_name_that_is_taken_is_refused(declare):
    with pytest.raises(InputError, match=r"a recipe is called 'zscl' already, .*distillation\.zscl; recipes\.forget"):
        declare("zscl")
    assert recipes.get("zscl").family == "CREG"
    declare("own")
    with pytest.raises(InputError, match="a recipe is called 'own' already"):
        recipes.recipe("own", family="PEA", summary="nothing")(empty)  # the very same is taken as well


def test_lists_are_filtered():
    assert recipes.list()[:3] == ["fine-tune", "zero-shot", "replay"]
    assert recipes.list(family="fusion") == ["wise-ft", "magmax", "ties", "rapf"]
    assert recipes.list(needs=["reference"]) == recipes.list(needs="reference") == ["zscl", "snd", "gnsp"]
    assert recipes.list(needs="generator") == ["gift"]
    assert set(recipes.list(needs=())) == set(recipes.list()) - {"zscl", "snd", "gnsp", "gift"}
    families = [recipes.get(name).family for name in recipes.list()]
    assert list(dict.fromkeys(families)) == list(recipes.FAMILIES) and sorted(families, key=families.index) == families
    for asked in ({"family": "pea"}, {"kind": "images"}, {"needs": "labels"}):
        with pytest.raises(InputError, match=r"not '?(pea|images|labels)"):
            recipes.list(**asked)


def test_every_shipped_recipe_states_where_it_comes_from():
    ours = {"fine-tune", "zero-shot", "text-replay"}
    for name in recipes.list():
        chosen = recipes.get(name)
        assert chosen.training, name
        assert bool(chosen.paper) == (name not in ours), name
        assert all(entry.reason for entry in chosen.training if isinstance(entry, Unpublished))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretend that a distribution is installed whose entry points name these modules, and that nobody asked yet."""

    def install(**modules: str) -> None:
        points = []
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
            points.append(importlib.metadata.EntryPoint(name, name, registry.GROUP))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
        monkeypatch.setattr(registry, "_recipes", dict(registry.all_recipes()))
        monkeypatch.setattr(registry, "_begun", registry._begun - {"others"})
        for name in modules:
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


OUTSIDE = """
from avalanche_vlm.training.recipes import recipe

@recipe("{name}", family="fusion", summary="from outside")
def own(model, *, share: float = 0.5) -> list:
    return []
"""


def test_recipes_of_other_distributions_are_found(installed):
    installed(own_recipes=OUTSIDE.format(name="outside"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipes.list()[-1] == "outside"
    assert recipes.build("outside", model=None, share=0.1) == []
    assert recipes.settings_for("outside", "data")[0] == {"lr": 1e-5, "weight_decay": 0.0}
    assert recipes.settings_for("outside", "picturebook")[0]["lr"] == 5e-4


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        (OUTSIDE.format(name="zscl"), "a recipe is called 'zscl' already"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
def test_broken_ones_are_left_out_with_a_sentence(installed, code, reason):
    installed(broken_recipes=code, sound_recipes=OUTSIDE.format(name="sound"))
    with pytest.warns(
        UserWarning, match="the recipes of broken_recipes are left out, since they cannot be loaded: "
    ) as told:
        assert recipes.list()[-1] == "sound"
    (warning,) = told
    assert reason in str(warning.message) and "\n" not in str(warning.message)
    assert recipes.get("zscl").compose.__module__.startswith("avalanche_vlm.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        recipes.list()


def test_rates_on_new_data_are_published_ones_that_adamw_can_run_or_ours(declare):
    sgd = Published("the paper", optimizer="SGD", lr=1.0)
    adam = Published("the paper", optimizer="Adam", lr=0.04, lr_batch=256, weight_decay=0.0)
    coupled = Published("the paper", optimizer="Adam", lr=0.5, weight_decay=1e-4)
    two = Published("the paper", optimizer="AdamW", lr=1e-5, text_lr_factor=10)
    mtil = Published("the paper", benchmark="MTIL", optimizer="AdamW", lr=3e-3, weight_decay=0.1, options={"rank": 3})
    declare("own-1", training=[sgd, coupled, two, adam])
    declare("own-2", training=[sgd, mtil], adamw=AdamW(7e-4, "ours"))
    declare("own-3", training=[sgd, Unpublished("unknown")])
    assert recipes.settings_for("own-1", "data") == ({"lr": 0.04 * 64 / 256, "weight_decay": 0.0}, {})
    assert recipes.settings_for("own-2", "data") == ({"lr": 7e-4, "weight_decay": 0.0}, {})
    assert recipes.settings_for("own-2", "mtil") == ({"lr": 3e-3, "weight_decay": 0.1}, {"rank": 3})
    assert recipes.settings_for("own-3", "data") == ({"lr": 1e-5, "weight_decay": 0.0}, {})


WHOLE_TOWERS = {
    *(
        "fine-tune",
        "replay",
        "icarl",
        "tic-cumulative",
        "text-replay",
        "latent-replay",
        "gift",
        "lwf",
        "lwf-vr",
        "zscl",
    ),
    *("snd", "gnsp", "mod-x", "dkr", "ctp", "ewc-clip", "wise-ft", "magmax", "ties"),
}
CLOSED = {"zero-shot", "rail-primal", "rail-dual", "ranpac", "simplecil"}


def test_rates_of_the_shipped_recipes():
    for name in recipes.list():
        rate = recipes.settings_for(name, "data")[0]["lr"]
        assert rate == 1e-5 if name in WHOLE_TOWERS | CLOSED else rate >= 3e-4, name
        fields, options = recipes.settings_for(name, "picturebook-pairs")
        assert (fields["epochs"], fields["batch_size"], fields["warmup"]) == (5, 64, 5)
        assert fields["lr"] == 5e-4 if name in WHOLE_TOWERS | CLOSED else fields["lr"] >= 1e-3, name
        assert set(options) <= set(recipes.get(name).options)


@pytest.mark.parametrize("facts", [{"kinds": "classes"}, {"paper": "2209.12345"}, {"training": Unpublished("never")}])
def test_one_fact_where_there_can_be_several_may_stand_alone(declare, facts):
    ((fact, value),) = facts.items()
    (only,) = getattr(declare("alone", **facts), fact)
    assert only == (Paper(value) if fact == "paper" else value)


def test_none_in_the_place_of_several_facts_is_none_of_them(declare):
    assert declare("bare", paper=None, training=None).paper == ()


def no_model(*, model) -> list:
    return []


def nothing() -> list:
    return []


def name_as_option(model, *, name: str = "x") -> list:
    return []


def default_out_of_range(model, *, rank: Count = 0) -> list:
    return []


@pytest.mark.parametrize(
    ("compose", "facts", "sentence"),
    [
        (no_model, {}, "takes the model first, by position"),
        (nothing, {}, "takes the model first, by position"),
        (name_as_option, {}, "name cannot be the name of an option"),
        (default_out_of_range, {}, "rank is a whole number from 1 to 1000000, not 0"),
        (empty, {"summary": None}, "one phrase"),
        (empty, {"family": "creg"}, "the family is"),
        (empty, {"kinds": None}, "kinds of streams are"),
        (empty, {"image_tower": "ResNet"}, "image towers are any or transformer, not 'ResNet'"),
        (empty, {"training": "five epochs"}, "Published or Unpublished, not 'five epochs'"),
    ],
)
def test_declarations_that_cannot_be_meant(declare, compose, facts, sentence):
    with pytest.raises(InputError, match=sentence):
        declare("odd", compose, **facts)
    assert "odd" not in recipes.list()


def test_a_recipe_that_gives_no_list_of_plugins(declare):
    declare("none-at-all", lambda model: None)
    with pytest.raises(InputError, match="its function returns a list of plugins, not None"):
        recipes.build("none-at-all", model=None)


def test_what_is_no_name_is_no_recipe():
    for odd in (None, 3, ["lora"]):
        with pytest.raises(InputError, match="no recipe is called"):
            recipes.describe(odd)
