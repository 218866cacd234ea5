"""Strategies and evaluations of every kind, killed in between."""

from __future__ import annotations

import json

import pytest
import torch
from avalanche.evaluation.metrics import (
    accuracy_metrics,
    bwt_metrics,
    class_accuracy_metrics,
    cpu_usage_metrics,
    forgetting_metrics,
    loss_metrics,
    topk_acc_metrics,
)
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from avalanche.training.supervised import Cumulative, Naive
from killed import Training, assert_same
from quick import one_each

from avalanche_vlm.benchmarks import HeldOutSet, picturebook
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.memory.state import KEPT, Stateful
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint.metrics import evaluator_state, load_evaluator_state
from avalanche_vlm.training.plugins import RunningMeanPlugin


@pytest.fixture(scope="module")
def stream():
    """Two experiences of 32 pictures: two minibatches each."""
    return picturebook.mtil_like(order=["sketches", "night"], n_train=32, n_test=8, n_held_out=8, n_reference=8)


def theirs():
    """Avalanche's metrics on minibatches, epochs, experiences and streams."""
    every = {"minibatch": True, "epoch": True, "epoch_running": True, "experience": True, "stream": True}
    return [
        *accuracy_metrics(**every),
        *loss_metrics(**every),
        *topk_acc_metrics(top_k=2, **every),
        *class_accuracy_metrics(epoch=True, stream=True),
        *forgetting_metrics(experience=True, stream=True),
        *bwt_metrics(experience=True, stream=True),
    ]


STRATEGIES = {
    "stock": (Naive, {}),
    "moments kept": (VLMNaive, {"keep_optimizer_state": True}),
    "momentum": (Naive, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)}),
    "bf16": (VLMNaive, {"amp": "bf16"}),
    "some classes for others": (VLMNaive, {"negatives": 2}),
    "clipped": (VLMNaive, {"max_grad_norm": 0.1}),
    "evaluated after every epoch": (Naive, {"eval_every": 1}),
    "evaluated after every iteration": (VLMNaive, {"eval_every": 1, "peval_mode": "iteration"}),
    "evaluated at the end": (VLMNaive, {"eval_every": 0}),
}


MOMENTS = [("after_backward", 7), ("after_eval_iteration", 2), ("after_training_exp", 2), ("before_update", 4)]


@pytest.mark.parametrize(("name", "moment"), one_each((name, moment) for name in STRATEGIES for moment in MOMENTS))
def test_every_strategy_goes_on(stream, tmp_path, name, moment):
    base, options = STRATEGIES[name]
    training = Training(
        stream, lambda model: [RunningMeanPlugin(1)], base=base, options=options, epochs=2, metrics=theirs
    )
    whole = training.run(tmp_path / "whole")
    assert training.run(tmp_path / "killed", *moment) is None
    assert_same(whole, training.run(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("after_backward", 2), ("after_training_exp", 1), ("before_update", 3)])
def test_a_stream_that_is_trained_in_one_call_goes_on(stream, tmp_path, moment):
    streams = {"eval_streams": [stream.test_stream]}
    training = Training(stream, together=True, evaluate=False, options={"eval_every": 0}, training=streams)
    whole = training.run(tmp_path / "whole")
    assert training.run(tmp_path / "killed", *moment) is None
    assert_same(whole, training.run(tmp_path / "killed"))


def test_other_experiences_to_evaluate_on_within_a_training_are_refused(stream, tmp_path):
    training = Training(stream, together=True, evaluate=False, options={"eval_every": 0}, minutes=9)
    assert training.run(tmp_path, "before_forward", 4, asks=3) is None
    with pytest.raises(InputError, match="give train the same eval_streams as then"):
        training.run(tmp_path)


@pytest.mark.slow
def test_our_metrics_go_on(stream, tmp_path):
    training = Training(
        stream, metrics=lambda: [PerformanceMatrix(), HeldOutScores(stream.held_out), ClassAccuracies()]
    )
    whole = training.run(tmp_path / "whole")
    for moment in (("after_eval_iteration", 1), ("after_backward", 4), ("after_eval", 2)):
        folder = tmp_path / moment[0]
        assert training.run(folder, *moment) is None
        assert_same(whole, training.run(folder))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("after_backward", 6), ("after_training_exp", 2), ("before_eval_iteration", 3)])
def test_probes_go_on(stream, tmp_path, moment):
    def probes():
        pairs = HeldOutSet("reference", stream.reference)
        return [
            *(DriftProbe(pairs, seed=1), InterferenceProbe(samples=8, per_experience=4, fisher="empirical")),
            *(ErosionProbe(stream.held_out, max_samples=4), TaskAnswers()),
        ]

    training = Training(stream, epochs=2, metrics=probes)
    whole = training.run(tmp_path / "whole")
    assert training.run(tmp_path / "killed", *moment) is None
    assert_same(whole, training.run(tmp_path / "killed"))


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends(stream, tmp_path):
    training = Training(stream, epochs=2)
    whole = training.run(tmp_path / "whole")
    for _ in range(20):
        if (found := training.run(tmp_path / "killed", "after_update", 2)) is not None:
            break
    assert_same(whole, found)


@pytest.mark.slow
def test_nothing_is_written_in_between_if_nobody_wants_it(stream, tmp_path):
    training = Training(stream, epochs=2, minutes=None)
    whole = training.run(tmp_path / "whole")
    assert training.run(tmp_path / "killed", "after_backward", 6, asks=5) is None
    assert sorted(path.stem for path in (tmp_path / "killed").glob("*.json")) == ["0000-trained", "0001-start"]
    assert_same(whole, training.run(tmp_path / "killed"))


def test_a_finished_training_trains_nothing_when_it_is_started_again(stream, tmp_path):
    training = Training(stream, minutes=None)
    whole = training.run(tmp_path)
    assert_same(whole, training.run(tmp_path))
    assert training.started_from == 1
    assert not {"before_training_exp", "before_training_iteration"} & set(training.killer.heard)
    assert training.killer.heard.count("before_eval_exp") == 2


class Seconds(Stateful):
    states = {"spent": KEPT}  # noqa: RUF012

    def __init__(self) -> None:
        self.spent = 0


def test_further_objects_go_on(stream, tmp_path):
    made: list[Seconds] = []

    def also():
        made.append(Seconds())
        return {"seconds": made[-1]}

    training = Training(stream, minutes=None, evaluate=False, also=also)
    assert training.run(tmp_path, "before_training", 2, deed=lambda strategy: setattr(made[0], "spent", 7)) is not None
    training.run(tmp_path)
    assert made[1].spent == 7
    with pytest.raises(InputError, match=r"has seconds beside the strategy, and CheckpointPlugin.* nothing"):
        Training(stream, minutes=None, evaluate=False).run(tmp_path)


UNKNOWN = {
    "the plugin ReplayPlugin": {"make_plugins": lambda model: [ReplayPlugin(10)]},
    "the plugin EWCPlugin": {"make_plugins": lambda model: [EWCPlugin(1.0)]},
    "the metric MinibatchCPUUsage": {"metrics": lambda: [*cpu_usage_metrics(minibatch=True)]},
    "Cumulative.dataset": {"base": Cumulative},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_knows_is_refused_by_name_before_training(stream, tmp_path, name):
    training = Training(stream, **UNKNOWN[name])
    with pytest.raises(InputError, match=rf"{name}.*strict=False"):
        training.run(tmp_path)
    assert training.killer.heard == []


@pytest.mark.slow
def test_what_nobody_knows_is_named_and_left_out_if_that_is_wanted(stream, tmp_path):
    training = Training(stream, lambda model: [EWCPlugin(1.0)], strict=False)
    with pytest.warns(VLMWarning, match="checkpoints do not have what the plugin EWCPlugin keep"):
        assert training.run(tmp_path, "after_backward", 2) is None
    with pytest.warns(VLMWarning, match="EWCPlugin"):
        assert training.run(tmp_path) is not None


def test_avalanches_metrics_are_read_and_taken():
    from avalanche.training.plugins import EvaluationPlugin

    first, second = (EvaluationPlugin(*theirs(), loggers=[]) for _ in range(2))
    for metric in first.metrics:
        inner = metric._metric if hasattr(metric, "_metric") else metric
        if type(inner).__name__ == "Accuracy":
            inner.update(torch.tensor([1, 0, 2]), torch.tensor([1, 1, 2]))
        if type(inner).__name__ == "ClassAccuracy":
            inner.update(torch.tensor([1, 0, 2]), torch.tensor([1, 1, 2]), 3)
    first.all_metric_results["a"][1].append(float("nan"))
    first.last_metric_results["a"] = 0.1
    state = evaluator_state(first)
    load_evaluator_state(second, {**state, **json.loads(json.dumps(state))})
    assert_same(state, evaluator_state(second))
    assert second.all_metric_results["new"] == ([], [])
    results = [[repr(m.result()) for m in evaluator.metrics[:12]] for evaluator in (first, second)]
    assert results[0] == results[1] and repr(2 / 3) in results[0]


def test_another_model_is_refused(tmp_path):
    from avalanche.training.plugins import EvaluationPlugin

    from avalanche_vlm.training import CheckpointPlugin, resume

    model = torch.nn.Linear(2, 2)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1),
        plugins=[CheckpointPlugin(tmp_path)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    with pytest.raises(InputError, match="trains a Linear"):
        resume(strategy, tmp_path)
