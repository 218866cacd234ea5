"""Accuracy per class and its mean over classes, on test sets that are anything but balanced."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from mini import unbalanced
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch.utils.data import DataLoader

from avalanche_vlm.evaluation.balance import balanced
from avalanche_vlm.evaluation.per_class import ClassAccuracies, class_records
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.settings import TrainSettings


@torch.no_grad()
def answers(model, experience) -> tuple[np.ndarray, np.ndarray]:
    model.eval()
    model.adaptation(experience)
    x, y, t = next(iter(DataLoader(experience.dataset.eval(), batch_size=1000)))
    return y.numpy(), model(x, t).argmax(1).numpy()


@pytest.mark.parametrize("visible", ["task", "union"])
def test_they_are_scikit_learns_under_whatever_competes(mini_model, tiny_benchmark, visible):
    stream = unbalanced(tiny_benchmark, visible)
    metric = ClassAccuracies()
    mini_model.set_label_space(stream.label_space)
    strategy = VLMNaive(
        model=mini_model,
        optimizer=torch.optim.SGD(mini_model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        eval_mb_size=7,
        plugins=[],
        evaluator=None,
    )
    strategy.plugins.append(metric)
    emitted = {}
    metric_values = metric.after_eval_exp
    metric.after_eval_exp = lambda strategy: emitted.update({(v := metric_values(strategy)).name: v.value})
    strategy.eval(stream.test_stream)
    of_tasks = []
    for task, experience in enumerate(stream.test_stream):
        y, found = answers(mini_model, experience)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
            of_tasks.append(balanced_accuracy_score(y, found))
        assert emitted[f"BalancedAccuracy/test/exp{task}"] == pytest.approx(of_tasks[-1])
        expected = {c: ((found[y == c] == c).mean(), (y == c).sum()) for c in np.unique(y)}
        assert metric.accuracies(task) == {c: pytest.approx(of) for c, of in expected.items()}
    names = stream.label_space.class_names
    records = class_records(metric, names, 2)
    assert balanced({"result": {"classes": records}}) == pytest.approx(100 * np.mean(of_tasks), abs=1e-3)
    assert [r["class"] for r in records[0]] == [names[c] for c in metric.accuracies(0)]


def test_a_result_has_the_classes_of_the_pretrained_and_of_the_last_model(mini_model, tiny_benchmark):
    stream = unbalanced(tiny_benchmark)
    mini_model.set_label_space(stream.label_space)
    before = [answers(mini_model, experience) for experience in stream.test_stream]
    outcome = run_experiment(
        stream, "fine-tune", model=mini_model, settings=TrainSettings(lr=1e-3, epochs=1, batch_size=16)
    )
    result = outcome.result
    after = [answers(mini_model, experience) for experience in stream.test_stream]
    for task, records in enumerate(result["classes"]):
        for column, found in (("pretrained", before[task]), ("last", after[task])):
            y, answered = found
            assert {r["class"]: r[column] for r in records} == {
                stream.label_space.class_names[c]: pytest.approx(100 * (answered[y == c] == c).mean(), abs=1e-3)
                for c in np.unique(y)
            }
        # Weighed by their samples they are the cell of the matrix, which stays what it was.
        samples = [r["samples"] for r in records]
        cell = result["matrix"][-1][task]
        assert cell == pytest.approx(np.average([r["last"] for r in records], weights=samples), abs=1e-3)
        assert cell == pytest.approx(100 * accuracy_score(*after[task]), abs=1e-3)
    assert set(result["metrics"]) == {"last", "avg", "transfer", "forget", "bwt", "zsd"}


def test_streams_of_pairs_have_none(mini_model, tiny_pairs):
    settings = TrainSettings(lr=1e-4, epochs=1, batch_size=16)
    result = run_experiment(tiny_pairs, "zero-shot", model=mini_model, settings=settings).result
    assert result["classes"] == [] and balanced({"result": result}) is None
