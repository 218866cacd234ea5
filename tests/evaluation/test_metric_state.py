"""Metrics are taken apart in the middle of a stream and put together again, and nothing shows."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from mini import mini

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.training import ContrastiveCriterion


def metrics_for(benchmark):
    return [
        PerformanceMatrix(),
        HeldOutScores(benchmark.held_out),
        TaskAnswers(),
        ClassAccuracies(),
        DriftProbe(benchmark.held_out[0], max_pairs=16),
        ErosionProbe(benchmark.held_out, max_samples=16),
        InterferenceProbe(samples=4, per_experience=1, draws=1),
    ]


def strategy_of(model, metrics, criterion):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(*metrics, loggers=[])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Naive(
        model=model, optimizer=optimizer, criterion=criterion, train_mb_size=32, eval_mb_size=16, evaluator=evaluator
    )


def through_a_file(state):
    """A state as a checkpoint would keep it: tensors, and the rest as JSON."""
    buffer = io.BytesIO()
    torch.save({name: value for name, value in state.items() if isinstance(value, torch.Tensor)}, buffer)
    words = json.dumps({name: value for name, value in state.items() if not isinstance(value, torch.Tensor)})
    buffer.seek(0)
    return {**torch.load(buffer, weights_only=True), **json.loads(words)}


def taken_apart(metrics, benchmark):
    fresh = metrics_for(benchmark)
    for old, new in zip(metrics, fresh, strict=True):
        new.load_state_dict(through_a_file(old.state_dict()))
    return fresh


def results(benchmark, criterion, restart):
    """What the metrics say of a stream; a new strategy with what ``restart`` makes of them trains its second half."""
    torch.manual_seed(0)
    model = mini()
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    metrics = metrics_for(benchmark)
    strategy = strategy_of(model, metrics, criterion)
    strategy.eval(benchmark.test_stream)
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)
    metrics = restart(metrics)
    torch.manual_seed(1)
    strategy = strategy_of(model, metrics, criterion)
    strategy.train(benchmark.train_stream[1])
    strategy.eval(benchmark.test_stream)
    matrix, held_out, answers, classes, drift, erosion, interference = metrics
    return {
        "matrix": matrix.result(),
        "survey": matrix.survey(),
        "held out": held_out.result(),
        "alignment": held_out.alignment(),
        "answers": answers.right,
        "classes": [classes.result(), *(classes.accuracies(task, 0) for task in range(2))],
        "drift": drift.result(),
        "hits": drift.hits(),
        "erosion": erosion.result(),
        "right": erosion.right(),
        "interference": interference.result(),
        "conflicts": interference.conflicts,
        "steps": [metric.step for metric in metrics],
        "stored": [metric.stored().total for metric in metrics],
        "raw": [metric.keeps_raw_data() for metric in metrics],
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_a_stream_measured_in_two_halves_is_measured_as_one(tiny_benchmark, tiny_pairs, kind):
    benchmark, criterion = {
        "classes": (tiny_benchmark, torch.nn.CrossEntropyLoss()),
        "pairs": (tiny_pairs, ContrastiveCriterion()),
    }[kind]
    whole = results(benchmark, criterion, lambda metrics: metrics)
    halves = results(benchmark, criterion, lambda metrics: taken_apart(metrics, benchmark))
    np.testing.assert_equal(halves, whole)
    assert whole["steps"] == [2] * 7 and whole["matrix"]["test"].shape == (3, 2)
    assert whole["raw"] == [False] * 6 + [True] and whole["stored"][6] > 0
    assert len(whole["conflicts"][2]) == 1
    assert all(map(bool, whole["classes"])) == (kind == "classes")
    if kind == "classes":
        with pytest.raises(InputError, match="its shape is 1 x 2"):  # the first half is lost
            results(benchmark, criterion, lambda metrics: metrics_for(benchmark))


def test_a_state_of_another_metric_is_refused():
    with pytest.raises(InputError, match="the state given to PerformanceMatrix has '_right', which it does not know"):
        PerformanceMatrix().load_state_dict(TaskAnswers().state_dict())
    with pytest.raises(InputError, match="_cells"):
        PerformanceMatrix().load_state_dict({"step": 1, "training": False})
