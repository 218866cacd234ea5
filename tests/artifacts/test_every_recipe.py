"""A model that a recipe trained, saved and loaded again, predicts the same to the last bit and can go on learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mini import mini
from quick import QUICK, one_each
from trained import Trained, answers, build, short_stream, train

from avalanche_vlm.artifacts import load, open_saved, save_model
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training import recipes
from avalanche_vlm.training.state import load_training_state, training_state

pytestmark = pytest.mark.usefixtures("narrow_tiny")

RUNS = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]
SOME = [(name, kind) for name, kind in RUNS if name in QUICK]
STANDING = ("lora", "zscl", "ranpac")

stream = cache(short_stream)


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same, names, bits and values."""
    assert a.keys() == b.keys()
    for name, entry in a.items():
        if isinstance(entry, torch.Tensor):
            assert entry.dtype == b[name].dtype and torch.equal(entry, b[name]), name
        else:
            assert json.dumps(entry) == json.dumps(b[name]), name
    return True


def check(folder: Path, found: Trained, again: Callable[[], VLM] | None) -> None:
    """Save and load a trained model, for prediction and for training."""
    model, benchmark = found.model, found.benchmark
    wanted = answers(model, benchmark)
    base = None if again is None else again()
    before = training_state(model, found.plugins)
    save_model(folder, model, base=base, **found.how)
    assert equal(training_state(model, found.plugins), before)  # and nothing was drawn or changed
    given = {} if again is None else {"base": again()}
    loaded = load(folder, **given)
    for one, other in zip(wanted, answers(loaded, benchmark), strict=True):
        assert torch.equal(one, other)
    assert not loaded.training and loaded.label_space == model.label_space and loaded.name == model.name
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(model.trainable_parameters())
    goes_on(folder, found, again, before)


def goes_on(folder: Path, found: Trained, again: Callable[[], VLM] | None, before: dict[str, Any]) -> None:
    """A training put together from the folder is the one that was saved."""
    saved = open_saved(folder)
    base = saved.base(None if again is None else again())
    state = saved.training(base)
    fresh = build(found.recipe, found.benchmark, lambda: base)
    load_training_state(fresh.model, fresh.plugins, state)
    assert equal(training_state(fresh.model, fresh.plugins), before)


@pytest.mark.parametrize(("name", "kind"), one_each(SOME, STANDING, STANDING))
def test_a_model_of_ones_own_is_loaded_into_its_base(tmp_path, name, kind):
    check(tmp_path, train(name, stream(kind), mini), mini)


@pytest.mark.parametrize(("name", "kind"), one_each(RUNS))
def test_every_recipe_predicts_and_goes_on_as_it_was(tmp_path, name, kind):
    found = train(name, stream(kind), create_vlm)
    check(tmp_path, found, None)
    saved = open_saved(tmp_path).description
    assert saved.plain == (tmp_path / "model" / "open_clip_config.json").exists()
    assert saved.plain == plain_by_name(found.model)


def plain_by_name(model: VLM) -> bool:
    """Whether all that a model has are the towers of its architecture and what counts classes."""
    own = set(create_vlm("tiny", "random").state_dict())
    more = {name for name in model.state_dict() if name not in own and not name.startswith("auxiliary.")}
    return not more and model.image_path is None
