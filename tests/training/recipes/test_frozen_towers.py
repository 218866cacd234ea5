"""What ``model.freeze`` holds, no recipe moves."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from mini import mini
from quick import LESS, one_each, slow_but_for_some

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins.towers import training_towers
from avalanche_vlm.weights.average import snapshot

pytestmark = pytest.mark.usefixtures("narrow_tiny")

OPTIONS = {**LESS, "nusa": {"tail_energy": 0.3}}
"""Options that make a recipe quick, or give random weights a tail."""
QUICK = ("nusa", "gnsp")
CASES = one_each(
    ((name, kind, tower) for name in recipes.list() for kind in recipes.get(name).kinds for tower in ("image", "text")),
    quick=QUICK,
)


@pytest.fixture(scope="module")
def streams():
    sizes = {"n_train": 16, "n_test": 8, "n_held_out": 8, "n_reference": 16}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **sizes),
    }


@pytest.mark.parametrize(("name", "kind", "tower"), CASES)
def test_a_frozen_tower_stays_as_it_is_or_the_recipe_says_that_it_cannot_do_without(streams, name, kind, tower):
    benchmark, model = streams[kind], mini().freeze(tower)
    held = snapshot(dict(model.tower_parameters(tower)))
    start = snapshot(dict(model.named_parameters()))
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    try:
        plugins = recipes.build(name, model=model, **resources, **OPTIONS.get(name, {}))
        strategy = Naive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
            criterion=criterion_for(kind, model),
            train_mb_size=8,
            plugins=plugins,
        )
        strategy.train(benchmark.train_stream[0])
    except InputError as error:
        assert "frozen" in str(error) and "\n" not in str(error)
        now = dict(model.named_parameters())
        assert all(torch.equal(value, now[n]) for n, value in start.items() if n in now)  # before anything was learned
        return
    strategy.train(benchmark.train_stream[1])
    now = dict(model.clip.named_parameters())
    assert held and all(torch.equal(value, now[n]) for n, value in held.items())


BOTH = one_each(((name, kind) for name in recipes.list() for kind in recipes.get(name).kinds), quick=QUICK)


@pytest.mark.parametrize(("name", "kind"), BOTH)
def test_a_frozen_model_stays_as_it_is_or_the_strategy_says_that_nothing_trains(streams, name, kind):
    benchmark, model = streams[kind], mini().freeze("image", "text")
    start = snapshot(dict(model.clip.named_parameters()))
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    try:
        strategy = VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
            criterion=criterion_for(kind, model),
            train_mb_size=8,
            plugins=recipes.build(name, model=model, **resources, **OPTIONS.get(name, {})),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
    except InputError as error:
        assert "frozen" in str(error) and "\n" not in str(error)
    now = dict(model.clip.named_parameters())
    assert all(torch.equal(value, now[n]) for n, value in start.items())


@pytest.mark.parametrize("name", slow_but_for_some(["nusa", "c-clip", "keeplora"], QUICK))
@pytest.mark.parametrize("towers", ["both", "image", "text"])
def test_a_low_rank_change_is_in_the_towers_that_are_asked_for(streams, name, towers):
    model = tiny_vlm()
    start = snapshot(dict(model.clip.named_parameters()))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        criterion=criterion_for("classes", model),
        train_mb_size=8,
        plugins=recipes.build(name, model=model, towers=towers),
    )
    strategy.train(streams["classes"].train_stream[0])
    now = dict(model.clip.named_parameters())
    moved = {"image" if n.startswith("visual.") else "text" for n in start if not torch.equal(start[n], now[n])}
    assert moved == ({"image", "text"} if towers == "both" else {towers})


@pytest.mark.parametrize(("towers", "moved"), [("image", {"image"}), ("both", {"image", "text"})])
def test_select_and_distill_trains_the_image_tower_alone_unless_asked(streams, towers, moved):
    model = mini()
    start = snapshot(dict(model.clip.named_parameters()))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for("classes", model),
        train_mb_size=8,
        plugins=recipes.build("snd", model=model, reference=streams["classes"].reference, towers=towers),
    )
    strategy.train(streams["classes"].train_stream[0])
    now = dict(model.clip.named_parameters())
    assert {"image" if n.startswith("visual.") else "text" for n in start if not torch.equal(start[n], now[n])} == moved


def test_towers_that_may_change():
    model = mini()
    assert training_towers(model, ["text", "image"], "it") == ("image", "text")
    assert training_towers(model.freeze("text"), ["text", "image"], "it") == ("image",)
    for towers, sentence in (
        (["text"], "it has nothing to change: the text tower is frozen"),
        (["scale"], "it changes the towers image and text, not scale"),
        ([], "it changes the towers image and text, not none"),
    ):
        with pytest.raises(InputError, match=sentence):
            training_towers(model, towers, "it")
    with pytest.raises(InputError, match="both towers are frozen"):
        training_towers(model.freeze("image"), ["text", "image"], "it")
