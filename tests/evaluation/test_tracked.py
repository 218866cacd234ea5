"""What a log shows of a training: in Avalanche's own strategies and in ours, and beside what is computed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import TensorImage
from avalanche.logging import BaseLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from matplotlib.figure import Figure
from mini import mini
from PIL.Image import Image
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation import PerformanceMatrix, survey_metrics
from avalanche_vlm.evaluation.tracked import (
    OF_STEPS,
    Confusions,
    SurveyCurves,
    TrainingCurves,
    figures_so_far,
    most_confused,
)
from avalanche_vlm.report.plots import confusions
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint.metrics import evaluator_state, load_evaluator_state

SIZES = {"n_train": 32, "n_test": 12, "n_held_out": 8, "n_reference": 8}


class Kept(BaseLogger):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def log_single_metric(self, name, value, x_plot):
        self.told.append((name, x_plot, value))

    def of(self, name):
        return {x: value for of, x, value in self.told if of == name}


class ByHand(SupervisedPlugin):
    """Loss, rate and norm of every step, as they are just before it."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def before_update(self, strategy, **kwargs):
        squares = [float((p.grad.double() ** 2).sum()) for p in strategy.model.parameters() if p.grad is not None]
        rate = strategy.optimizer.param_groups[0]["lr"] = 0.01 / (1 + len(self.steps))
        self.steps.append((float(strategy.loss), rate, sum(squares) ** 0.5))


@pytest.fixture(params=[Naive, VLMNaive], ids=["stock", "ours"])
def trained(request):
    stream = picturebook.mtil_like(order=["sketches", "night"], **SIZES)
    model = mini().set_label_space(stream.label_space)
    by_hand, kept, matrix = ByHand(), Kept(), PerformanceMatrix()
    strategy = request.param(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=8,
        plugins=[by_hand],
        evaluator=EvaluationPlugin(
            matrix, TrainingCurves(), SurveyCurves(), Confusions(confusions), loggers=kept, collect_all=False
        ),
    )
    strategy.eval(stream.test_stream)
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    return strategy, stream, by_hand, kept, matrix


def test_every_step_has_its_loss_rate_and_norm_and_every_row_its_figures_and_confusions(trained):
    strategy, stream, by_hand, kept, matrix = trained
    assert len(by_hand.steps) == 8
    for column, name in enumerate(OF_STEPS):
        found = kept.of(name)
        assert list(found) == list(range(1, 9))
        assert list(found.values()) == pytest.approx([step[column] for step in by_hand.steps], rel=1e-5)
    rows = matrix.rows()
    last = {name: kept.of(f"Survey/test/{name}").get(2) for name in ("last", "avg", "transfer", "forget", "bwt", "zsd")}
    assert last == survey_metrics(rows[1:], rows[0])
    assert kept.of("Survey/test/mean") == {row: pytest.approx(rows[row].mean()) for row in range(3)}
    assert kept.of("Survey/test/last")[1] == rows[1, 0] and 0 not in kept.of("Survey/test/last")
    drawn = kept.of("Confusions/test")
    assert list(drawn) == [0, 1, 2]
    answers = np.zeros((len(stream.label_space), len(stream.label_space)), dtype=int)
    model = strategy.model.eval()
    for experience in stream.test_stream:
        model.adaptation(experience)
        x, y, t = next(iter(DataLoader(experience.dataset.eval(), batch_size=99)))
        with torch.no_grad():
            np.add.at(answers, (y.numpy(), model(x, t).argmax(1).numpy()), 1)
    names = stream.label_space.class_names
    found = {
        (true, given): number
        for true, row in zip(drawn[2].names, drawn[2].counts.tolist(), strict=True)
        for given, number in zip(drawn[2].names, row, strict=True)
        if number
    }
    assert found == {(names[i], names[j]): answers[i, j] for i, j in np.argwhere(answers)}
    assert sum(found.values()) == 24


def test_pictures_are_drawn_for_those_who_take_them(trained):
    *_, kept, _ = trained
    drawn = kept.of("Confusions/test")[2]
    assert torch.equal(drawn.best_supported_value(torch.Tensor, float), torch.from_numpy(drawn.counts))
    assert "plot" not in vars(drawn)
    plot = drawn.best_supported_value(Image, torch.Tensor, TensorImage, Figure, float, int)
    assert [text.get_text() for text in plot.axes[0].get_yticklabels()] == drawn.names
    assert Confusions()._draw is None


def test_a_state_without_a_log_and_one_with_it_go_on_either_way(trained):
    strategy, *_ = trained
    evaluator = strategy.evaluator
    with_log = evaluator_state(evaluator)
    assert not any("Confusions" in name for name in with_log["last"]) and "Train/loss" in with_log["last"]
    without = EvaluationPlugin(PerformanceMatrix(), loggers=[Kept()], collect_all=False)
    load_evaluator_state(without, with_log)
    again = EvaluationPlugin(
        PerformanceMatrix(), TrainingCurves(), SurveyCurves(), Confusions(), loggers=[Kept()], collect_all=False
    )
    load_evaluator_state(again, evaluator_state(without))
    assert np.array_equal(again.metrics[0].rows(), evaluator.metrics[0].rows())
    again.metrics[3].before_eval(strategy)
    assert again.metrics[3].row == 2  # by the strategy's clock: no state has said it
    mixed = EvaluationPlugin(Confusions(), PerformanceMatrix(), loggers=[Kept()], collect_all=False)
    load_evaluator_state(mixed, with_log)
    assert np.array_equal(mixed.metrics[1].rows(), evaluator.metrics[0].rows())


def test_states_of_metrics_that_an_earlier_version_has_counted_are_read(trained):
    evaluator = trained[0].evaluator
    places = {f"{type(metric).__name__}.0": number for number, metric in enumerate(evaluator.metrics)}
    assert len(places) == len(evaluator.metrics)
    earlier = {}
    for name, entry in evaluator_state(evaluator).items():
        for place, number in places.items():
            name = name.replace(f"metrics.{place}.", f"metrics.{number}.")
        earlier[name] = entry
    assert any(name.startswith("metrics.0.") for name in earlier)
    again = EvaluationPlugin(*(type(metric)() for metric in evaluator.metrics), loggers=[Kept()], collect_all=False)
    load_evaluator_state(again, earlier)
    assert np.array_equal(again.metrics[0].rows(), evaluator.metrics[0].rows())


def test_of_many_classes_those_with_most_wrong_answers_are_drawn():
    counts = {(of, of): 5 for of in range(60)} | {(57, 3): 9, (3, 57): 2, (57, 30): 1}
    classes, square, answers, of_all = most_confused(counts)
    assert len(classes) == 50 and {57, 3, 30} <= set(classes) and classes == sorted(classes) and of_all == 60
    at = classes.index(57)
    assert square[at, 3] == 9 and answers[at] == 15 and square.sum() == 50 * 5 + 12
    plot = confusions(square, [f"class {of}" for of in classes], answers, of_all)
    assert [text.get_text() for text in plot.axes[0].get_yticklabels()] == [f"class {of}" for of in classes]
    assert plot.axes[0].get_title() == "the 50 of 60 classes with most wrong answers"


def test_of_very_many_classes_no_square_of_all_is_made(trained):
    strategy, *_ = trained
    metric = Confusions(confusions)
    metric.step, metric._counts = 1, {"test": {(of, (of + of % 2) % 200_000): 1 for of in range(200_000)}}
    (found,) = metric.after_eval(strategy)  # all of them would take 320 GB
    assert found.value.counts.shape == (50, 50) and found.value.classes == 200_000
    assert found.value.plot is not None


def test_shares_are_of_all_answers_to_a_class_shown_or_not():
    shown = confusions(np.array([[2]]), ["cat"], [8], 3).axes[0].images[0].get_array()
    whole = confusions(np.array([[2, 6], [0, 1]]), ["cat", "dog"]).axes[0].images[0].get_array()
    assert np.array_equal(shown[0, 0], whole[0, 0])


def test_of_more_trainings_than_tasks_there_is_the_mean_alone():
    assert figures_so_far(np.array([[0.1], [0.2], [0.5], [0.9]])) == {"mean": 0.9}
    assert figures_so_far(np.array([[0.1], [0.2]]))["last"] == 0.2


def test_a_metric_that_has_published_nothing_yet_has_a_state(trained):
    evaluator = trained[0].evaluator
    evaluator.all_metric_results["nothing"] = ([], [])
    assert ["nothing", {"$": "tuple", "items": [[], []]}] in evaluator_state(evaluator)["all"]["items"]
