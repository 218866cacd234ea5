"""Three months of a model: what it learns, what is refused, and what lies on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from quick import LESS, one_each

from avalanche_vlm.artifacts import current_version, load, open_saved, save_model
from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.living import difference_of, list_versions, roll_back, update
from avalanche_vlm.studies.living.difference import told
from avalanche_vlm.studies.living.first import record_first
from avalanche_vlm.studies.living.growth import beginning
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SIZES = {"n_train": 24, "n_test": 12, "n_held_out": 12, "n_reference": 24}
SETTINGS = TrainSettings(lr=5e-4, epochs=1, batch_size=12, warmup=1)


def stream(kind: str) -> VLMBenchmark:
    """Three months: new classes each, or pairs."""
    if kind == "pairs":
        return picturebook.pairs(domains=("sketch", "night", "clean"), **SIZES)
    return picturebook.mtil_like(order=["digits", "night", "toys"], label_space="seen", **SIZES)


def fresh() -> VLM:
    torch.manual_seed(0)
    return create_vlm("tiny")


def first_month(folder: Path, whole: VLMBenchmark, recipe: str, keep: int = 8, months: int = 1) -> None:
    model = fresh()
    month = beginning(whole, months)
    outcome = run_experiment(
        month, recipe, model=model, settings=SETTINGS, options=LESS.get(recipe, {}), evaluate=False
    )
    outcome.save(folder)
    record_first(folder, "v1", month, model, keep)


RUNS = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


STANDING = ("replay", "zscl", "lora", "ranpac", "magmax")
"""Samples, references, modules, a head, weights: through their states others go in ``test_month_by_month``."""


@pytest.mark.parametrize(("name", "kind"), one_each(RUNS, STANDING))
def test_three_months_by_update_are_the_run_over_all_of_them(name, kind, tmp_path):
    whole = stream(kind)
    at_once = fresh()
    run_experiment(whole, name, model=at_once, settings=SETTINGS, options=LESS.get(name, {}), evaluate=False)
    first_month(tmp_path, whole, name)
    for number in (1, 2):
        done = update(tmp_path, stream(kind), experiences=[number], keep=4, promote="always")
        assert done.version == f"v{number + 1}" and done.promoted
    by_month = load(tmp_path).state_dict()
    states = at_once.state_dict()
    assert states.keys() == by_month.keys()
    odd = [
        key
        for key, value in states.items()
        if isinstance(value, torch.Tensor) and not torch.equal(value, by_month[key])
    ]
    assert odd == []
    # Which module was active last is the affair of the last forward pass: update asks its versions, this run nobody.
    for what in ("label_space", "known_tasks"):
        assert states["_extra_state"][what] == by_month["_extra_state"][what]


@pytest.fixture(scope="module")
def whole() -> VLMBenchmark:
    return stream("classes")


@pytest.fixture
def home(tmp_path, whole) -> Path:
    first_month(tmp_path, whole, "fine-tune")
    return tmp_path


@pytest.mark.slow
def test_a_version_that_lost_too_much_stays_a_candidate(home, whole):
    wrong = TrainSettings(lr=0.05, epochs=3, batch_size=12)  # a rate that ruins the towers
    bad = update(home, whole, experiences=[1], settings=wrong)
    assert not bad.promoted and current_version(home) == "v1"
    assert {of.gate: of.verdict for of in bad.findings}["zero-shot loss"] == "broken"
    assert "above the limit of 1" in bad.refusal and "points" in bad.refusal
    with pytest.raises(InputError, match=r"v2 was never promoted .*--anyway makes it the model all the same"):
        roll_back(home, "v2")
    good = update(
        home, whole, experiences=[1], recipe="wise-ft", options={"weight": 0.1}, max_forget=50, max_zero_shot_loss=50
    )
    assert good.promoted and good.version == "v3" and current_version(home) == "v3"
    listed = {of["version"]: of for of in list_versions(home)}
    assert [listed[v]["promoted"] for v in ("v1", "v2", "v3")] == [True, False, True]
    assert [listed[v]["parent"] for v in ("v1", "v2", "v3")] == [None, "v1", "v1"]
    assert [of["name"] for of in listed["v3"]["experiences"]] == ["digits", "night"]
    assert listed["v3"]["current"] and listed["v3"]["recipe"] == "wise-ft" and listed["v3"]["bytes"] > 1e5
    json.dumps(list(listed.values()))

    assert roll_back(home, "v1") == "v3" and os.readlink(home / "model") == "versions/v1"
    again = update(home, whole, experiences=[1], promote="never")
    assert again.version == "v4" and not again.promoted and current_version(home) == "v1"
    assert roll_back(home, "v2", anyway=True) == "v1" and current_version(home) == "v2"


@pytest.mark.slow
def test_two_versions_are_told_apart(home, whole, tmp_path):
    update(home, whole, experiences=[1], promote="always")
    found = difference_of(home, "v1", "v2", pictures=tmp_path / "pictures")
    sets = {of["name"]: of for of in found["sets"]}
    assert {"digits", "night", "captions", "size", "position"} == sets.keys()
    old = load(home / "versions" / "v1")
    for version, model in (("first", old), ("second", load(home))):
        from avalanche_vlm.studies.living.answers import answers_of
        from avalanche_vlm.studies.living.kept import kept_sets
        from avalanche_vlm.studies.living.records import read_record

        asked = next(iter(kept_sets(home, read_record(home, "v2").experiences, model.transforms.eval)))
        assert sets["digits"][version] == pytest.approx(100 * answers_of(model, asked).score, abs=1e-4)
    digits = sets["digits"]
    assert digits["low"] <= digits["change"] <= digits["high"] and 0 < digits["drift"]["image cosine"] < 1
    for of in sets["digits"]["classes"]:
        assert of["change"] == pytest.approx(of["second"] - of["first"])
    examples = [example for of in found["sets"] for example in of["examples"]]
    assert examples and all(Path(example["picture"]).stat().st_size > 0 for example in examples)
    assert 0 < found["weights"]["changed"] <= found["weights"]["parameters"]
    json.dumps(found)
    assert any(line.startswith("digits (experience, 8 samples)") for line in told(found))
    same = difference_of(home, "v1", "v1")
    assert all(of["change"] == 0 and not of["examples"] for of in same["sets"]) and same["weights"]["changed"] == 0


@pytest.mark.slow
def test_without_kept_tests_nobody_is_promoted_unless_it_is_said(tmp_path, whole):
    first_month(tmp_path, whole, "fine-tune", keep=0)
    assert not (tmp_path / "tests").exists()
    refused = update(tmp_path, whole, experiences=[1], keep=0, max_zero_shot_loss=None)
    assert not refused.promoted and "no test samples of digits were kept" in refused.refusal
    assert not (tmp_path / "tests").exists()
    assert update(tmp_path, whole, experiences=[1], keep=0, max_zero_shot_loss=None, promote="unjudged").promoted
    assert update(tmp_path, whole, experiences=[2], max_forget=None, max_zero_shot_loss=None).promoted


@pytest.mark.slow
def test_a_recipe_that_cannot_go_on_says_so_before_training(home, whole, monkeypatch):
    before = sorted(path.name for path in (home / "versions").iterdir())
    with pytest.raises(InputError, match=r"recipe icarl answers by a class head .* none of those that v1 has learned"):
        update(home, whole, experiences=[1], recipe="icarl")
    declared = recipes.get("fine-tune")
    monkeypatch.setattr("avalanche_vlm.studies.living.updating.recipes.get",
                        lambda name: declared if name != "fine-tune" else _not_growing(declared))  # fmt: skip
    with pytest.raises(
        InputError, match="recipe fine-tune learns no classes that it did not know from the first: 'red'"
    ):
        update(home, whole, experiences=[1])
    assert sorted(path.name for path in (home / "versions").iterdir()) == before


def _not_growing(declared):
    from dataclasses import replace

    return replace(declared, grows=False)


@pytest.mark.slow
def test_after_frozen_towers_a_recipe_trains_them_again_or_says_why_not(tmp_path, whole):
    first_month(tmp_path / "frozen", whole, "zero-shot")
    assert update(tmp_path / "frozen", whole, experiences=[1], recipe="fine-tune", promote="always").promoted
    first_month(tmp_path / "modules", whole, "lora")
    with pytest.raises(
        InputError, match=r"recipe lora has put modules or a head into v1 .*: recipe fine-tune cannot take over"
    ):
        update(tmp_path / "modules", whole, experiences=[1], recipe="fine-tune")


@pytest.mark.slow
def test_what_was_saved_without_its_training_learns_no_more(tmp_path, whole):
    model = fresh().set_label_space(whole.label_space)
    save_model(tmp_path, model, recipe="fine-tune")
    with pytest.raises(InputError, match="was saved without the state of its training"):
        update(tmp_path, whole, experiences=[1], settings=SETTINGS)
    with pytest.raises(InputError, match=r"there is no saved model in .*nowhere to update"):
        update(tmp_path / "nowhere", whole)


@pytest.mark.slow
def test_a_recipe_changed_on_the_way_goes_on_with_its_own_state(home, whole):
    update(home, whole, experiences=[1], recipe="replay", promote="always")
    assert [of.recipe for of in open_saved(home).description.built] == ["fine-tune", "replay"]
    done = update(home, whole, experiences=[2], promote="always")
    assert done.record.recipe == "replay" and done.record.parent == "v2"
    state = open_saved(home).training(open_saved(home).base())
    assert state["plugins"] == ["ExemplarReplayPlugin"]
    assert state["plugins.0.memory._rows"]["shape"] == [
        2 * SIZES["n_train"]
    ]  # of what came after it began, and not before


class Killed(BaseException):
    """Nothing that anybody catches."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["replay", pytest.param("lora", marks=pytest.mark.grid)])
def test_an_update_that_was_killed_goes_on_where_it_was(tmp_path, whole, recipe):
    def killed(experience: int, iteration: int, iterations: int) -> None:
        if iteration == 2:
            raise Killed

    for name in ("whole", "broken"):
        first_month(tmp_path / name, whole, recipe)
    update(tmp_path / "whole", whole, experiences=[1, 2], promote="always")
    with pytest.raises(Killed):
        update(tmp_path / "broken", whole, experiences=[1, 2], progress=killed, checkpoint_minutes=0)
    assert current_version(tmp_path / "broken") == "v1" and [*list_versions(tmp_path / "broken")][-1]["version"] == "v1"
    with pytest.raises(
        InputError, match=r"an update to v2 was interrupted with train.lr = 0.0005, and this one has 0.1"
    ):
        update(
            tmp_path / "broken",
            whole,
            experiences=[1, 2],
            settings=TrainSettings(lr=0.1, epochs=1, batch_size=12, warmup=1),
        )
    done = update(tmp_path / "broken", whole, experiences=[1, 2], promote="always")
    assert done.version == "v2" and not list((tmp_path / "broken" / "versions").glob(".*-training"))
    one, other = (load(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[key], other[key]) for key in one if isinstance(one[key], torch.Tensor))
