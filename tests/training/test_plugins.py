"""What the plugins do to a training run in Avalanche's own ``Naive``."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import (
    AnchorPenaltyPlugin,
    ExemplarReplayPlugin,
    RunningMeanPlugin,
    WarmupCosinePlugin,
)
from avalanche_vlm.training.plugins.schedule import warmup_cosine
from avalanche_vlm.weights.average import snapshot


def trainable(strategy) -> dict:
    return snapshot({n: p for n, p in strategy.model.named_parameters() if p.requires_grad})


def test_replay_appends_exemplars_with_their_task_labels(random_model, tiny_benchmark):
    memory = ExemplarMemory(10 * 3100)
    replay = ExemplarReplayPlugin(random_model, memory, batch_size=64)
    seen = Recorder("after_forward", lambda s: (len(s.mb_x), len(s.mb_output), s.mb_task_id.tolist(), s.mb_y.tolist()))
    strategy = naive(random_model, [replay, seen])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    assert [n for n, *_ in seen.values] == [16] * 4 and len(memory) == 10
    seen.values.clear()
    strategy.train(second)
    for n, outputs, tasks, labels in seen.values:
        assert n == outputs == 26 and tasks == [1] * 16 + [0] * 10
        assert set(labels[16:]) <= set(tiny_benchmark.label_space.tasks[0])
    assert set(memory.labels.tolist()) & set(tiny_benchmark.label_space.tasks[1])
    assert replay.stored().ram <= 10 * 3100


def test_replay_appends_no_more_than_its_batch(random_model, tiny_benchmark):
    replay = ExemplarReplayPlugin(random_model, ExemplarMemory(1 << 20), batch_size=5)
    sizes = Recorder("after_forward", lambda s: (len(s.mb_x), s.mb_task_id.tolist()))
    strategy = naive(random_model, [replay, sizes])
    strategy.train(tiny_benchmark.train_stream)
    assert len(replay.memory) == 128
    assert sizes.values == [(16, [0] * 16)] * 4 + [(21, [1] * 16 + [0] * 5)] * 4


def test_replayed_pictures_are_the_streams_own(random_model, tiny_benchmark):
    memory = ExemplarMemory(1 << 20)
    strategy = naive(random_model, [ExemplarReplayPlugin(random_model, memory)])
    strategy.train(tiny_benchmark.train_stream[0])
    originals = {x.numpy().tobytes() for x, *_ in tiny_benchmark.train_stream[0].dataset}
    drawn = memory.sample(64)
    again = random_model.transforms.eval.from_uint8(drawn["pixels"])
    assert len(again) == 64 and all(x.numpy().tobytes() in originals for x in again)


@pytest.mark.parametrize(
    ("options", "after"),
    [({}, (1, 3, 5, 7)), pytest.param({"first": 4}, (4, 6, 8), marks=pytest.mark.slow)],
)
def test_a_task_ends_on_the_mean_of_its_snapshots(random_model, tiny_benchmark, options, after):
    start = Recorder("before_training_exp", trainable)
    steps = Recorder("after_update", trainable)
    strategy = naive(random_model, [start, steps, RunningMeanPlugin(interval=2, **options)], epochs=2)
    strategy.train(tiny_benchmark.train_stream[0])
    assert len(steps.values) == 8
    chosen = [start.values[0], *(steps.values[update - 1] for update in after)]
    for name, value in trainable(strategy).items():
        torch.testing.assert_close(value, torch.stack([s[name] for s in chosen]).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("updates", "interval", "after"),
    [
        (1001, 100, [0, *range(1, 1002, 100)]),  # the authors' code on MTIL: twelve snapshots
        (1000, 100, [0, *range(1, 1000, 100)]),
        (51, 10, [0, 1, 11, 21, 31, 41, 51]),
        (101, 100, [0, 1, 101]),
        (100, 100, [100]),  # no longer than one interval: what was learned
        (3, 1, [0, 1, 2, 3]),
        (1, 1, [1]),
    ],
)
def test_the_snapshots_of_a_running_mean_are_those_of_zscls_code(random_model, updates, interval, after):
    weight = random_model.freeze("image", "text").unfreeze("scale").clip.logit_scale
    weight.data = torch.zeros((), dtype=torch.float64)
    strategy, plugin = SimpleNamespace(model=random_model), RunningMeanPlugin(interval)
    plugin.before_training_exp(strategy)
    for update in range(1, updates + 1):
        weight.data.fill_(update**2)
        plugin.after_update(strategy)
    plugin.after_training_exp(strategy)
    assert len(after) == 12 or updates != 1001
    assert weight.item() == pytest.approx(sum(update**2 for update in after) / len(after), rel=1e-12)


def test_fewer_iterations_than_an_interval_keep_what_was_learned(random_model, tiny_benchmark):
    steps = Recorder("after_update", trainable)
    strategy = naive(random_model, [steps, RunningMeanPlugin(interval=100)])
    strategy.train(tiny_benchmark.train_stream[0])
    assert all(torch.equal(value, steps.values[-1][name]) for name, value in trainable(strategy).items())


def test_an_interval_of_nothing():
    with pytest.raises(InputError, match="the interval between snapshots is 1 or more, not 0"):
        RunningMeanPlugin(0)
    with pytest.raises(InputError, match="the first snapshot is taken after update 1 or later, not 0"):
        RunningMeanPlugin(1, first=0)


def test_the_anchor_is_where_each_task_starts_and_holds_the_weights(random_model, tiny_benchmark):
    free, held = copy.deepcopy(random_model), random_model
    moved = []
    for model, plugins in ((free, []), (held, [AnchorPenaltyPlugin(30.0)])):
        start = trainable(naive(model, []))
        naive(model, plugins, lr=0.01, optimizer=torch.optim.SGD).train(tiny_benchmark.train_stream[0])
        end = trainable(naive(model, []))
        moved.append(sum((end[n] - start[n]).square().sum() for n in start).item())
    assert moved[1] < 0.9 * moved[0]


def test_lora_leaves_base_and_old_modules_bit_identical(random_model, tiny_benchmark):
    (plugin,) = recipes.build("lora", model=random_model, rank=2)
    base = snapshot(random_model.clip.state_dict())
    strategy = naive(random_model, [plugin], weight_decay=0.1)
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    old = [p.detach().clone() for p in plugin.pool.parameters("task_0")]
    assert any((p != 0).all() for p in old if p.shape[1] == 2)  # the halves that start at zero have moved
    strategy.train(second)
    state = random_model.clip.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.items())
    assert all(torch.equal(a, b) for a, b in zip(old, plugin.pool.parameters("task_0"), strict=True))
    new = list(plugin.pool.parameters("task_1"))
    in_optimizer = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in in_optimizer and p.requires_grad for p in new)
    assert any((p != 0).all() for p in new if p.shape[1] == 2)
    assert len(plugin.router) == 2 and plugin.stored().ram > plugin.pool.nbytes()


def test_the_schedule_is_set_at_every_update_and_starts_anew(random_model, tiny_benchmark):
    rates = Recorder("after_update", lambda s: s.optimizer.param_groups[0]["lr"])
    strategy = naive(random_model, [WarmupCosinePlugin(warmup=2), rates], lr=0.1, epochs=2, optimizer=torch.optim.SGD)
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
        assert strategy.optimizer.param_groups[0]["lr"] == 0.1
    expected = [0.1 * warmup_cosine(step, 8, 2) for step in range(8)]
    assert rates.values == pytest.approx(expected * 2)
    assert rates.values[:2] == pytest.approx([0.05, 0.1])


def test_a_warm_up_that_outlasts_the_task_is_warned_about(random_model, tiny_benchmark):
    strategy = naive(random_model, [WarmupCosinePlugin(warmup=100)])
    with pytest.warns(UserWarning, match="warm-up of 100 iterations is not shorter than experience 0 with 4"):
        strategy.train(tiny_benchmark.train_stream[0])
