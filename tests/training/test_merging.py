"""Weights that are mended when a task is over."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.supervised import Naive
from test_plugins import Recorder

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training.plugins import InterpolationPlugin, TaskVectorMergePlugin
from avalanche_vlm.weights import task_vectors
from avalanche_vlm.weights.average import snapshot


@pytest.fixture(scope="module")
def three_tasks():
    order = ["sketches", "night", "fabrics"]
    return picturebook.mtil_like(n_train=32, n_test=8, order=order, n_held_out=8, n_reference=8)


def trainable(strategy) -> dict[str, torch.Tensor]:
    return snapshot(strategy.model.trainable_parameters())


def train(benchmark, plugins, freeze=()) -> tuple[torch.nn.Module, list]:
    """A model after the stream, and its trained weights after every task."""
    torch.manual_seed(0)
    model = create_vlm("tiny", "random").freeze(*freeze)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    strategy = Naive(model=model, optimizer=optimizer, criterion=criterion, train_mb_size=16, plugins=plugins)
    after = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        after.append(trainable(strategy))
    return model, after


def close(a, b, atol=1e-6):
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=1e-5)


def test_wise_ft_ends_between_start_and_end(three_tasks):
    starts, ends = Recorder("before_training_exp", trainable), Recorder("after_training_exp", trainable)
    _, after = train(three_tasks, [starts, ends, InterpolationPlugin(0.75)])
    for task in range(3):
        expected = {n: 0.25 * w + 0.75 * ends.values[task][n] for n, w in starts.values[task].items()}
        close(after[task], expected)
    close(starts.values[1], after[0], atol=0)


@pytest.mark.parametrize("method", ["magmax", "average", "random", "ties"])
def test_merges_are_those_of_the_pure_functions(three_tasks, method):
    plugin = TaskVectorMergePlugin(method, scale=0.5, keep=0.3, seed=5)
    ends, starts = Recorder("after_training_exp", trainable), Recorder("before_training_exp", trainable)
    _, after = train(three_tasks, [ends, plugin, starts])
    initial = starts.values[0]
    vectors = [task_vectors.task_vector(end, initial) for end in ends.values]
    for task in range(3):
        seen = vectors[: task + 1]
        if method == "random":
            merged = snapshot(seen[0])
            for count, vector in enumerate(seen[1:], start=1):
                draws = torch.Generator().manual_seed(5 + count)
                task_vectors.update_random_mix(merged, vector, count, draws)
        elif method == "ties":
            merged = task_vectors.ties(seen, keep=0.3)
        else:
            merged = getattr(task_vectors, method)(seen)
        close(after[task], task_vectors.apply(initial, merged, 0.5))
    # Training goes on from where it ended, bit by bit, whatever was given out between.
    for task in range(2):
        close(starts.values[task + 1], ends.values[task], atol=0)
        assert any(not torch.equal(after[task][n], w) for n, w in ends.values[task].items())


def test_only_what_trains_is_kept_and_twice(three_tasks):
    plugin = TaskVectorMergePlugin()
    _, after = train(three_tasks, [plugin], freeze=("text",))
    assert all(name.startswith("clip.visual.") for name in after[0])
    assert plugin.stored().ram == 2 * tensor_bytes(after[0].values())
    ties = TaskVectorMergePlugin("ties")
    train(three_tasks, [ties], freeze=("text",))
    assert ties.stored().ram == 5 * tensor_bytes(after[0].values())


def test_what_is_given_out_predicts(three_tasks):
    plugin = TaskVectorMergePlugin("average", scale=1.0)
    model, _ = train(three_tasks, [plugin])
    images = torch.randn(2, 3, 32, 32)
    prompts = torch.arange(3)
    with model.evaluating():
        said = model(images, 0)
        fresh = create_vlm("tiny", "random").set_label_space(model.label_space)
        fresh.clip.load_state_dict(model.clip.state_dict())
        # The cached prompts of the head are those of the merged weights as well.
        torch.testing.assert_close(said, fresh.eval()(images, 0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.prompt_features(prompts), fresh.prompt_features(prompts), atol=1e-6, rtol=0)


def test_bad_settings_are_named(three_tasks):
    for make, message in (
        (lambda: InterpolationPlugin(1.5), "lies in .0, 1., not 1.5"),
        (lambda: TaskVectorMergePlugin("median"), "magmax, average, random, ties, not 'median'"),
        (lambda: TaskVectorMergePlugin(scale=float("nan")), "a number other than 0, not nan"),
        (lambda: TaskVectorMergePlugin("ties", keep=0.0), "a share of the elements in .0, 1., not 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            make()

    class Freezes(Recorder):
        def before_train_dataset_adaptation(self, strategy, **kwargs):
            if strategy.experience.current_experience == 1:
                strategy.model.freeze("text")

    with pytest.raises(InputError, match="trained in an earlier task and does not now"):
        train(three_tasks, [Freezes("after_update", lambda s: None), TaskVectorMergePlugin()])
