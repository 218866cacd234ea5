"""Advice in Python: pilots within the constraints, on a stream and a model of the caller's."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from made import tiny as tiny_vlm

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice import Constraints, advise
from avalanche_vlm.studies.advice.halving import OutOfTime
from avalanche_vlm.studies.advice.pilots import Pilots
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.weights.average import snapshot


def settings(recipe: str) -> tuple[TrainSettings, dict]:
    options = {"max_bytes": 50_000} if recipe == "prototype-replay" else {}
    return TrainSettings(lr=5e-4, epochs=1, batch_size=16), options


def pilots(benchmark, **constraints) -> Pilots:
    return Pilots(benchmark, tiny_vlm(), settings, Constraints(**constraints))


@pytest.mark.slow
def test_advice_is_asked_for_in_one_call(tiny_benchmark):
    model = tiny_vlm()
    before = snapshot(model.clip.state_dict())
    names = ("zero-shot", "wise-ft", "lwf-vr")
    found = advise(tiny_benchmark, model=model, settings=settings, recipes=names, minutes=10)
    assert {of["recipe"] for of in found["rounds"][0]["recipes"]} >= {"fine-tune", "zero-shot", "wise-ft"}
    assert found["answer"]["confidence"] == "too little data"  # of 20 test samples
    assert all(torch.equal(before[name], weight) for name, weight in model.clip.state_dict().items())


def test_what_cannot_be_tried_is_known_before_anything_is_trained(tiny_pairs):
    names, excluded = pilots(tiny_pairs, raw_data=False).candidates(["zero-shot", "replay", "ranpac", "zero-shot"])
    assert names == ["zero-shot"] and excluded["replay"] == "keeps samples of the user's, which is not allowed"
    assert "is for streams of classes" in excluded["ranpac"]
    with pytest.raises(InputError, match="no recipe is called"):
        pilots(tiny_pairs).candidates(["zcsl"])


def test_a_recipe_whose_plugins_tell_nothing_is_not_tried_where_no_raw_data_may_be_kept(tiny_benchmark, monkeypatch):
    monkeypatch.setattr(recipes, "build", lambda name, **given: [ReplayPlugin(mem_size=8)])
    names, excluded = pilots(tiny_benchmark, raw_data=False).candidates(["fine-tune"])
    assert names == [] and excluded == {
        "fine-tune": "may keep samples of the user's, which is not allowed: ReplayPlugin does not declare what it keeps"
    }
    assert pilots(tiny_benchmark).candidates(["fine-tune"]) == (["fine-tune"], {})


def test_a_memory_is_kept_within_the_constraints_and_the_change_is_told(tiny_benchmark):
    limited = pilots(tiny_benchmark, max_bytes=20_000)
    assert limited.settings("replay")[1] == {"max_bytes": 20_000}
    assert limited.settings("prototype-replay")[1] == {"max_bytes": 20_000}
    assert limited.settings("rapf")[1] == {"max_bytes": 20_000}  # whose memory has no bound of its own
    assert limited.changed_options.pop("rapf") == {"max_bytes": 20_000}
    assert limited.changed_options == {name: {"max_bytes": 20_000} for name in ("replay", "prototype-replay")}
    free = pilots(tiny_benchmark)
    assert free.settings("prototype-replay")[1] == {"max_bytes": 50_000} and free.changed_options == {
        "prototype-replay": {}
    }


def test_a_stream_that_asks_for_the_task_id_is_refused_where_that_is_not_allowed(tiny_benchmark):
    with pytest.raises(InputError, match='label_space="union"'):
        pilots(tiny_benchmark, task_id=False)


def test_shares_leave_every_task_enough_samples(tiny_benchmark):
    assert pilots(tiny_benchmark).shares() == [1.0]  # 64 per task: a quarter would be 16


def test_a_pilot_that_will_not_end_in_time_is_broken_off(tiny_benchmark):
    asked = pilots(tiny_benchmark)
    with pytest.raises(OutOfTime):
        asked.run("fine-tune", 1.0, asked.clock() - 1)


def test_a_recipe_that_a_task_is_too_small_for_is_not_tried(tiny_benchmark):
    train = [experience.dataset for experience in tiny_benchmark.train_stream]
    test = [experience.dataset for experience in tiny_benchmark.test_stream]
    facts = {"label_space": tiny_benchmark.label_space, "task_names": tiny_benchmark.task_names}
    small = VLMBenchmark("small", "classes", [train[0], train[1].subset(range(6))], test, **facts)
    names, excluded = pilots(small).candidates(["fine-tune", "lora"])
    assert names == ["fine-tune"] and "task night has 6 training samples" in excluded["lora"]
