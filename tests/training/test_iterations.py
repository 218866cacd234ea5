"""An experience has as many iterations as are asked for, whatever minibatches a method trains on."""

from __future__ import annotations

import pytest
import torch
from made import tiny as tiny_vlm
from quick import LESS
from recording import Recorder

from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")


@pytest.mark.parametrize("name", ["fine-tune", "replay", "icarl", "proof"])
@pytest.mark.parametrize("iterations", [1, 7])
def test_methods_that_unite_old_and_new_samples_train_as_long_as_others(tiny_benchmark, name, iterations):
    model = tiny_vlm()
    model.set_label_space(tiny_benchmark.label_space)
    torch.manual_seed(0)
    plugins = recipes.build(name, model=model, **LESS.get(name, {}))
    settings = TrainSettings(iterations=iterations, batch_size=16, warmup=0, train_classes=None)
    steps = Recorder("after_training_iteration", lambda s: s.clock.train_exp_counter)
    epochs = Recorder("before_training_epoch", lambda s: (s.clock.train_exp_counter, len(s.dataloader)))
    strategy = strategy_of(model, "classes", settings, [*plugins, steps, epochs], device="cpu")
    batches = []
    for number, experience in enumerate(tiny_benchmark.train_stream):
        strategy.train(experience)
        own = [length for of, length in epochs.values if of == number]
        assert steps.values.count(number) == iterations and len(own) == -(-iterations // own[0])
        batches.append(own[0])
    assert (batches[1] > batches[0]) == (name in ("icarl", "proof"))


def test_rates_of_tasks_that_there_are_not_are_told_of(tiny_benchmark):
    settings = TrainSettings(epochs=1, rates={"nowhere": 1e-3, tiny_benchmark.task_names[0]: 1e-3})
    with pytest.warns(VLMWarning, match="rates of nowhere are of no use: the stream's tasks are"):
        run_experiment(tiny_benchmark, "fine-tune", model=tiny_vlm(), settings=settings)
