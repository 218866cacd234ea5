"""Benchmarks of Avalanche's own: as they come, without task labels, and as ours."""

from __future__ import annotations

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, benchmark_with_validation_stream
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.supervised import Naive
from quick import slow_but_for_some
from torch.utils.data import TensorDataset

from avalanche_vlm.benchmarks import LabelSpace, from_avalanche, picturebook
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.settings import TrainSettings

NAMES = ["circle", "star", "fox", "heart"]


def colours(n=24):
    """Pictures of four colours, ready for the model."""
    y = torch.arange(n) % 4
    tensors = TensorDataset(torch.nn.functional.one_hot(y % 3, 3).float().view(n, 3, 1, 1).expand(n, 3, 32, 32), y)
    tensors.targets = y.tolist()
    return as_classification_dataset(tensors)


def without_labels():
    return class_incremental_benchmark(
        {"train": colours(), "test": colours(8)}, class_order=range(4), num_experiences=2
    )


def strategy_of(model, plugins=(), kind=VLMNaive, **options):
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=6,
        eval_mb_size=8,
        plugins=list(plugins),
        **options,
    )


@pytest.mark.parametrize("kind", [Naive, VLMNaive])
def test_experiences_without_task_labels_are_trained_and_scored(kind, random_model):
    from avalanche.training.plugins import EvaluationPlugin

    stock, matrix = without_labels(), PerformanceMatrix()
    model = random_model.set_label_space(LabelSpace.from_names(NAMES))
    strategy = strategy_of(model, kind=kind, evaluator=EvaluationPlugin(matrix, loggers=[]))
    strategy.eval(stock.test_stream)
    for experience in stock.train_stream:
        assert not hasattr(experience, "task_labels")
        strategy.train(experience)
        strategy.eval(stock.test_stream)
    assert matrix.rows().shape == (3, 2) and (matrix.rows() >= 0).all()
    assert model.known_train_tasks_labels == {0}


@pytest.mark.parametrize(
    "name",
    slow_but_for_some(
        ["replay", "lora", "text-replay", "latent-replay", "ewc-clip", "lwf", "keeplora", "ranpac"],
        ("replay", "lora", "lwf", "ranpac"),
    ),
)
def test_recipes_take_experiences_without_task_labels(name, random_model):
    model = random_model.set_label_space(LabelSpace.from_names(NAMES))
    options = {"lora": {"rank": 2}, "keeplora": {"rank": 2}}.get(name, {})
    strategy = strategy_of(model, recipes.build(name, model=model, **options))
    for experience in without_labels().train_stream:
        strategy.train(experience)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_validation_stream_of_one_of_ours_is_trained_as_it_is(random_model):
    ours = picturebook.mtil_like(order=["sketches", "night"], n_train=8, n_test=4, n_held_out=5)
    stock = benchmark_with_validation_stream(ours, validation_size=0.25)
    strategy = strategy_of(random_model.set_label_space(ours.label_space))
    for train, valid in zip(stock.train_stream, stock.valid_stream, strict=True):
        strategy.train(train)
        strategy.eval([valid])
    assert strategy.model.known_train_tasks_labels == {0, 1}


def test_a_bare_stream_has_no_timeline_of_classes_either(random_model):
    stock = benchmark_from_datasets(train=[colours()], test=[colours(8)])
    strategy = strategy_of(random_model.set_label_space(LabelSpace.from_names(NAMES)))
    strategy.train(stock.train_stream[0])
    strategy.eval(stock.test_stream)
    with pytest.raises(ValueError, match="has class id 3"):
        strategy_of(random_model.set_label_space(LabelSpace.from_names(NAMES[:2]))).train(stock.train_stream[0])


def test_a_stock_benchmark_made_ours_runs_as_an_experiment(random_model):
    benchmark = from_avalanche(without_labels(), NAMES, model=random_model, label_space="seen", name="colours")
    settings = TrainSettings(lr=1e-3, epochs=1, batch_size=6, warmup=0)
    result = run_experiment(benchmark, "replay", model=random_model, settings=settings).result
    assert len(result["matrix"]) == 3 and result["tasks"] == ["task 0", "task 1"]
    assert result["protocol"]["benchmark"] == "colours"
    assert result["protocol"]["data"]["task_labels"] == "per experience"
