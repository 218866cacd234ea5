"""What is watched for a report: right by other ways of counting, of no effect, bounded, and there after a kill."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from mini import mini
from PIL import Image

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.pair_features import PairFeaturesMetric
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.views import Views
from avalanche_vlm.evaluation.views.changed import ChangedAnswers
from avalanche_vlm.evaluation.views.changed import _caption as caption_of
from avalanche_vlm.evaluation.views.feature_map import FeatureMap
from avalanche_vlm.evaluation.views.plane import principal_plane
from avalanche_vlm.evaluation.views.records import MOST_CLASSES, VIEWS
from avalanche_vlm.evaluation.views.thumbnails import thumbnail
from avalanche_vlm.evaluation.views.timeline import Timeline
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 32, "n_test": 24, "n_held_out": 8, "n_reference": 32}
RUN = "0123456789abcdef"
EXAMPLES = {"replay": 24, "lora": 0, "fine-tune": 3}


class Killed(BaseException):
    """Nobody catches it but the test."""


class FoundCaptions(PairFeaturesMetric):
    """How many images of each task find a caption of theirs first, by step."""

    states: ClassVar = {}

    def __init__(self):
        super().__init__()
        self.parts, self.found = [], {}

    def after_eval_iteration(self, strategy):
        self.parts.append((*self.pair_features(strategy), strategy.mb_y))

    def after_eval_exp(self, strategy):
        images, texts, ids = map(torch.cat, zip(*self.parts, strict=True))
        self.parts = []
        to_texts = first_hits(images, texts, ids)[0]
        self.found[self.row, strategy.experience.current_experience] = round(float(to_texts.sum()))


@cache
def stream(kind: str):
    if kind == "pairs":
        return picturebook.pairs(domains=("sketch", "night"), **SIZES)
    return picturebook.mtil_like(order=["sketches", "night"], **SIZES)


def trained(kind: str, recipe: str, metrics=(), examples: int = 24, **given):
    """A run, and what was watched of it; nothing with -1 examples."""
    views = Views(stream(kind), examples)
    torch.manual_seed(0)
    outcome = run_experiment(
        stream(kind),
        recipe,
        model=mini(),
        settings=TrainSettings(lr=5e-3, epochs=1, batch_size=8),
        metrics=[*metrics, *(views.metrics if examples >= 0 else ())],
        **given,
    )
    return outcome, views.as_json()


@cache
def watched(kind: str, recipe: str):
    """A run, its views as a file of them would say it, and another way of counting."""
    by_hand = TaskAnswers() if kind == "classes" else FoundCaptions()
    outcome, views = trained(kind, recipe, [by_hand], EXAMPLES[recipe])
    VIEWS.text_for(Path("views.json"), {"run": RUN, **views})  # which it would refuse to write, if it did not read it
    return outcome, json.loads(json.dumps(views)), by_hand


CASES = [("classes", "replay"), ("classes", "lora"), ("pairs", "fine-tune")]


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_nothing_that_is_watched_changes_a_run(kind, recipe):
    plain, _ = trained(kind, recipe, examples=-1)
    seen, views, _ = watched(kind, recipe)
    assert json.dumps(plain.result) == json.dumps(seen.result)
    weights = plain.strategy.model.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in seen.strategy.model.state_dict().items() if torch.is_tensor(w))
    clocks = ("train_seconds", "peak_memory_bytes")
    assert {**plain.ledger, **dict.fromkeys(clocks)} == {**seen.ledger, **dict.fromkeys(clocks)}
    assert views["map"]["steps"] == [0, 1, 2]
    places = [*views["map"]["images"], *views["map"]["texts"]]
    assert all(place is not None for row in places for place in row)


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_the_timeline_ends_with_what_the_ledger_has_measured_its_own_way(kind, recipe):
    outcome, views, _ = watched(kind, recipe)
    timeline, costs = views["timeline"], outcome.result["costs"]
    assert [of["step"] for of in timeline] == [0, 1, 2]
    assert max(of["ram_bytes"] + of["disk_bytes"] for of in timeline) == costs["stored_bytes"]
    assert [of["modules"] for of in timeline] == ([0, 1, 2] if recipe == "lora" else [0, 0, 0])
    assert timeline[-1]["parameters"] - costs["model_parameters"] == costs["added_parameters"]
    assert recipe == "fine-tune" or costs["stored_bytes"] > 0


def test_changed_classes_are_those_that_the_matrix_tells_of():
    outcome, views, answers = watched("classes", "replay")
    matrix = outcome.result["matrix"]
    for task, of in enumerate(views["changed"]):
        first, last = answers.right[0, task], answers.right[2, task]
        assert of["samples"] == len(first) == 24 and of["task"] == outcome.result["tasks"][task]
        turned = ((first == 1) & (last == 0)).sum(), ((first == 0) & (last == 1)).sum()
        assert (of["lost"], of["won"]) == turned
        assert of["won"] - of["lost"] == round((matrix[-1][task] - matrix[0][task]) / 100 * of["samples"])
    assert sum(of["lost"] + of["won"] for of in views["changed"]) > 5
    confusions = views["confusions"]
    assert len(confusions["classes"]) == min(MOST_CLASSES, confusions["of"])
    for when in ("before", "after"):
        rows = zip(confusions[when], confusions["samples"], strict=True)
        assert all(sum(row) <= samples for row, samples in rows)
    turn = confusions["turns"][0]
    assert abs(turn["after"] - turn["before"]) == max(abs(t["after"] - t["before"]) for t in confusions["turns"])
    if {turn["true"], turn["answer"]} <= set(confusions["classes"]):
        true, given = (confusions["classes"].index(turn[key]) for key in ("true", "answer"))
        assert [confusions[when][true][given] for when in ("before", "after")] == [turn["before"], turn["after"]]


def test_changed_pairs_are_images_that_find_or_lose_their_caption():
    _, views, by_hand = watched("pairs", "fine-tune")
    assert views["confusions"] is None and len(views["changed"]) == 2
    for task, of in enumerate(views["changed"]):
        assert of["won"] - of["lost"] == by_hand.found[2, task] - by_hand.found[0, task]
    assert len(views["examples"]) == EXAMPLES["fine-tune"]
    for e in views["examples"]:
        assert e["before"] != e["after"] and e["true"] in (e["before"] if e["kind"] == "lost" else e["after"])


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_another_wrong_answer_is_another_caption_and_not_another_row(kind):
    y = torch.tensor([5, 6, 6, 7, 8])
    before, after = torch.tensor([[1, 3, 1, 3, 0], [2, 0, 3, 3, 4]], dtype=torch.int32)
    if kind == "classes":
        before, after = y[before.long()].int(), y[after.long()].int()
    metric = ChangedAnswers(stream(kind), 0)
    metric._compare(0, y, before, after, kind == "pairs")
    (of,) = metric.changed()
    # Row 0 has the caption 6 of rows 1 and 2 both times; row 1 has 7 and then 5; row 2 was right.
    assert (of["samples"], of["lost"], of["won"], of["otherwise"]) == (5, 1, 1, 1)


def test_only_a_pair_that_was_passed_over_has_no_caption():
    pairs = PairDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ["a", "b"])
    pairs.stand_ins = SimpleNamespace(met=torch.tensor([0, 1], dtype=torch.uint8))
    assert [caption_of(pairs, row) for row in (0, 1)] == ["a", None]


def test_a_map_has_the_steps_that_are_evaluated_and_nothing_without_the_first():
    long = SimpleNamespace(train_stream=range(100), test_stream=[], label_space=None)
    assert sorted(FeatureMap(long, every=10)._chosen) == list(range(0, 101, 10))
    assert sorted(FeatureMap(long, "last")._chosen) == [0, 100] and len(FeatureMap(long)._chosen) == 12
    timeline, drawn = Timeline(), FeatureMap(stream("classes"))
    timeline._steps = {"1": [0, 0, 0, 9], "2": [1, 0, 0, 9]}
    drawn._steps = {step: torch.randn(2, len(drawn._points), 4) for step in "12"}
    assert timeline.as_json() == [] and drawn.as_json() is None


def test_a_picture_is_the_test_sample_whose_answer_changed():
    benchmark, found = stream("classes"), watched("classes", "replay")[1]["examples"]
    assert {e["kind"] for e in found} <= {"lost", "won"} and 2 < len(found) <= EXAMPLES["replay"]
    tests, transform = {}, mini().transforms.eval
    for name, experience in zip(benchmark.task_names, benchmark.test_stream, strict=True):
        for x, y, _ in experience.dataset.eval():
            pixels = transform.to_uint8(x).permute(1, 2, 0).numpy().tobytes()
            tests[name, pixels] = benchmark.label_space.class_names[y]
    for e in found:
        picture = Image.open(io.BytesIO(base64.b64decode(e["picture"])))
        assert e["form"] == "png" and picture.size == (32, 32)
        assert tests[e["task"], np.asarray(picture.convert("RGB")).tobytes()] == e["true"]
        assert (e["before"] == e["true"]) == (e["kind"] == "lost") and (e["after"] == e["true"]) == (e["kind"] == "won")


def test_no_picture_is_kept_where_none_is_asked_for_and_a_large_one_is_small():
    _, views, _ = watched("classes", "lora")
    assert views["examples"] == [] and len(views["changed"]) == 2 and "picture" not in json.dumps(views)
    form, text = thumbnail(torch.randint(0, 255, (3, 224, 300), dtype=torch.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    assert form == "jpeg" and max(picture.size) == 96 and len(text) < 16_000


def test_a_model_that_stays_as_it_is_moves_nothing():
    _, views = trained("classes", "zero-shot")
    assert all((of["lost"], of["won"], of["otherwise"]) == (0, 0, 0) for of in views["changed"])
    assert views["examples"] == [] and views["confusions"]["turns"] == []
    drawn = views["map"]
    assert drawn["images"][0] == drawn["images"][-1] and drawn["texts"][0] == drawn["texts"][-1]
    assert all(abs(p["image_moved"]) < 1e-4 and abs(p["text_moved"]) < 1e-4 for p in drawn["points"])


def test_the_plane_is_that_of_the_singular_vectors():
    rows = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    places, share = principal_plane(rows)
    centred = (rows - rows.mean(0)).double().numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred)
    wanted = centred @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(places.numpy()), np.abs(wanted), atol=1e-6)
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    again, _ = principal_plane(rows.clone())
    assert torch.equal(places, again)
    assert principal_plane(torch.ones(3, 4))[1] == 1.0 and principal_plane(torch.ones(1, 4))[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("kind", "recipe"), [("classes", "replay"), pytest.param("pairs", "fine-tune", marks=pytest.mark.slow)]
)
def test_a_run_that_was_killed_shows_what_it_would_have_shown(tmp_path, kind, recipe):
    def dies(experience, iteration, iterations):
        if (experience, iteration) == (1, 2):
            raise Killed

    def dies_at_the_end(step, matrix):
        if step == 2:
            raise Killed

    views = None
    for given in ({"progress": dies}, {"on_row": dies_at_the_end}, {}):
        with suppress(Killed):
            checkpoint = CheckpointPlugin(tmp_path, None)
            _, views = trained(kind, recipe, examples=EXAMPLES[recipe], checkpoint=checkpoint, **given)
    assert json.loads(json.dumps(views)) == watched(kind, recipe)[1]
