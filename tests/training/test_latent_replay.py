"""Latent replay in Avalanche's own ``Naive``: what is replayed, what moves, and what is left alone."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from mini import WIDTH
from recording import Recorder

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.latents import LatentMemory
from avalanche_vlm.training.criteria import ContrastiveCriterion
from avalanche_vlm.training.plugins.latent_replay import LatentReplayPlugin
from avalanche_vlm.training.strategies import VLMNaive

ROW = 12 + 2 * 17 * WIDTH
TOKENS = 2 * 20


def naive(model, plugins, kind=Naive, criterion=None, epochs=1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return kind(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1),
        criterion=criterion or torch.nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=evaluator,
        **options,
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "workers"), [("fp16", 0), ("int8", 2)])
def test_old_latents_join_every_batch_of_classes(random_model, tiny_benchmark, precision, workers):
    row = ROW if precision == "fp16" else 12 + 17 * WIDTH + 17 * 4
    plugin = LatentReplayPlugin(random_model, LatentMemory(10 * row + 5, precision), batch_size=6)
    seen = Recorder("after_forward", lambda s: (len(s.mb_x), len(s.mb_output), s.mb_task_id.tolist(), s.mb_y.tolist()))
    strategy = naive(random_model, [plugin, seen])
    first, second = tiny_benchmark.train_stream
    strategy.train(first, num_workers=workers)
    assert [(n, outputs) for n, outputs, *_ in seen.values] == [(16, 16)] * 4 and len(plugin.memory) == 10
    seen.values.clear()
    strategy.train(second, num_workers=workers)
    for n, outputs, tasks, labels in seen.values:
        assert (n, outputs) == (16, 22) and tasks == [1] * 16 + [0] * 6
        assert set(labels[16:]) <= set(tiny_benchmark.label_space.tasks[0])
    assert set(plugin.memory.sample(10)["y"].tolist()) & set(tiny_benchmark.label_space.tasks[1])
    assert plugin.stored().ram == 10 * row


@pytest.mark.slow
def test_outputs_of_replayed_latents_are_those_of_their_pictures(random_model, tiny_benchmark):
    """With the text tower and the upper part changed since they were stored."""
    plugin = LatentReplayPlugin(random_model, LatentMemory(64 * ROW), batch_size=64)
    checked = []

    class Check(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            old = strategy.mb_output[len(strategy.mb_x) :].detach()
            latents = plugin.cut.capture(pictures)
            with strategy.model.evaluating():
                expected = strategy.model(pictures, tasks)
            # The memory is shuffled: find each picture by its latents.
            drawn = stored[-1]
            distance = torch.cdist(drawn.flatten(1), latents.flatten(1))
            match = distance.argmin(1)
            assert len(match.unique()) == 64 and distance.min(1).values.max() < 0.1
            torch.testing.assert_close(old, expected[match], atol=0.05, rtol=0)
            assert torch.equal(strategy.mb_y[16:], labels[match])
            checked.append(len(old))

    first, second = tiny_benchmark.train_stream
    pictures = torch.stack([x for x, *_ in first.dataset.eval()])
    labels = torch.tensor([y for _, y, *_ in first.dataset])
    tasks = torch.zeros(64, dtype=torch.long)
    stored = []
    original = plugin.cut.arm
    plugin.cut.arm = lambda latents: (stored.append(latents), original(latents))
    naive(random_model, [plugin]).train(first)
    strategy = naive(random_model, [plugin, Check()])
    strategy.train(second)
    assert checked == [64] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers"), [(Naive, 2), (VLMNaive, 0)])
def test_old_latents_and_tokens_join_every_batch_of_pairs(random_model, tiny_pairs, kind, workers):
    memory = LatentMemory(12 * (ROW + TOKENS))
    plugin = LatentReplayPlugin(random_model, memory, batch_size=5)
    seen = Recorder("after_forward", lambda s: (s.mbatch[0], s.mb_output, s.mb_y, s.mb_task_id))
    strategy = naive(random_model, [plugin, seen], kind, ContrastiveCriterion())
    first, second = tiny_pairs.train_stream
    strategy.train(first, num_workers=workers)
    assert all(output.shape == (16, 16) for _, output, *_ in seen.values) and len(memory) == 12
    captions = {tuple(x.tokens.tolist()): y for x, y, *_ in first.dataset}
    seen.values.clear()
    strategy.train(second, num_workers=workers)
    assert len(seen.values) == 4
    for x, output, y, task in seen.values:
        assert isinstance(x, ImageText) and len(x.image) == 16 and len(x.tokens) == len(y) == len(task) == 21
        assert output.shape == (21, 21)
        assert all(
            captions[tuple(t)] == label for t, label in zip(x.tokens[16:].tolist(), y[16:].tolist(), strict=True)
        )
    assert plugin.stored().ram == 12 * (ROW + TOKENS)


def test_below_the_cut_nothing_moves_and_above_it_everything_does(random_model, tiny_benchmark):
    # Gradients of an earlier life must not move the frozen part either.
    random_model.encode_image(torch.randn(2, 3, 32, 32))[:, 0].sum().backward()
    plugin = LatentReplayPlugin(random_model, LatentMemory(32 * ROW), layer="transformer.resblocks.2", batch_size=16)
    start = weights(random_model)
    gradients = Recorder("after_backward", lambda s: {n for n, p in s.model.named_parameters() if p.grad is not None})
    naive(random_model, [plugin, gradients]).train(tiny_benchmark.train_stream)
    end = weights(random_model)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    visual = {name for name, _ in random_model.tower_parameters("image")}
    below = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer.resblocks.0.")
    frozen = {n for n in visual if n.removeprefix("visual.").startswith((*below, "transformer.resblocks.1."))}
    assert {f"clip.{n}" for n in visual - frozen} == {n for n in moved if n.startswith("clip.visual.")}
    assert not any(random_model.get_parameter(f"clip.{n}").requires_grad for n in frozen)
    assert len(frozen) == 29 and all(not g & {f"clip.{n}" for n in frozen} for g in gradients.values)
    assert any(not n.startswith("clip.visual.") for n in moved), "the text tower trains as it did"


def test_evaluation_sees_the_pictures_alone(random_model, tiny_benchmark):
    plugin = LatentReplayPlugin(random_model, LatentMemory(32 * ROW), batch_size=16)
    outputs = Recorder("after_eval_forward", lambda s: s.mb_output)
    strategy = naive(random_model, [plugin, outputs], eval_every=1)
    test = tiny_benchmark.test_stream[:1]
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience, eval_streams=[test])
    assert {len(o) for o in outputs.values} == {20}
    outputs.values.clear()
    strategy.eval(test)
    plain = copy.deepcopy(random_model).eval()
    with torch.no_grad():
        expected = plain(torch.stack([x for x, *_ in test[0].dataset.eval()]), torch.zeros(20, dtype=torch.long))
    torch.testing.assert_close(outputs.values[0], expected, atol=1e-4, rtol=0)


def test_a_failed_pass_leaves_nothing_behind(random_model, tiny_benchmark):
    plugin = LatentReplayPlugin(random_model, LatentMemory(32 * ROW), batch_size=16)
    strategy = naive(random_model, [plugin])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)

    class Broken(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            strategy.mbatch[0] = strategy.mbatch[0][..., :16]

    broken = Broken()
    strategy.plugins.append(broken)
    with pytest.raises(InputError, match="takes images"):
        strategy.train(second)
    strategy.plugins.remove(broken)
    assert plugin.cut.armed
    assert strategy.eval(tiny_benchmark.test_stream) is not None and not plugin.cut.armed
    strategy.train(second)


def test_the_lower_part_stays_in_eval_mode_and_latents_are_those_of_evaluation(random_model, tiny_benchmark):
    visual = random_model.clip.visual
    visual.patch_dropout = torch.nn.Dropout(0.5)
    visual.transformer.resblocks[3].ls_2 = torch.nn.Dropout(0.5)
    plugin = LatentReplayPlugin(random_model, LatentMemory(64 * ROW), batch_size=16)
    modes = Recorder(
        "after_forward", lambda s: (visual.patch_dropout.training, visual.transformer.resblocks[3].ls_2.training)
    )

    class Evaluates(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            with strategy.model.evaluating():
                pass

    first = tiny_benchmark.train_stream[0]
    naive(random_model, [plugin, modes, Evaluates()]).train(first)
    assert modes.values == [(False, True)] * 4
    pictures = torch.stack([x for x, *_ in first.dataset.eval()])
    expected = plugin.cut.capture(pictures)
    drawn = plugin.memory.sample(64)["latents"]
    assert torch.cdist(drawn.flatten(1), expected.flatten(1)).min(1).values.max() < 0.1


@pytest.mark.slow
def test_bf16_autocast_and_our_own_strategy(random_model, tiny_benchmark):
    plugin = LatentReplayPlugin(random_model, LatentMemory(32 * ROW), batch_size=16)
    losses = Recorder("after_update", lambda s: (s.loss.item(), len(s.mb_output)))
    naive(random_model, [plugin, losses], VLMNaive, amp="bf16").train(tiny_benchmark.train_stream)
    assert [n for _, n in losses.values] == [16] * 4 + [32] * 4
    assert all(0 < loss < 20 for loss, _ in losses.values)


@pytest.mark.slow
def test_replay_holds_the_first_task(tiny_benchmark):
    first, second = tiny_benchmark.train_stream
    pictures = torch.stack([x for x, *_ in first.dataset.eval()])
    labels = torch.tensor([y for _, y, *_ in first.dataset])
    loss = {}
    for replayed in (False, True):
        torch.manual_seed(0)
        model = tiny_vlm().freeze("text")
        plugin = LatentReplayPlugin(
            model, LatentMemory(64 * (12 + 2 * 17 * 128)), layer="transformer.resblocks.1", batch_size=32
        )
        naive(model, [plugin], epochs=3).train(first)
        naive(model, [plugin] if replayed else [], epochs=3).train(second)
        with model.evaluating():
            logits = model(pictures, torch.zeros(64, dtype=torch.long))
            loss[replayed] = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss[True] < 0.3 * loss[False]


def test_bad_settings_are_refused(random_model, tiny_benchmark, tiny_pairs):
    memory = LatentMemory(4 * ROW)
    with pytest.raises(InputError, match="no layer 'layer3'"):
        LatentReplayPlugin(random_model, memory, layer="layer3")
    with pytest.raises(InputError, match="whole number of 1 or more, not 0"):
        LatentReplayPlugin(random_model, memory, batch_size=0)
    routed = copy.deepcopy(random_model)
    routed.install("image_path", torch.nn.Identity(), "a detour")
    with pytest.raises(InputError, match="image path is taken by a detour, and latent replay needs it"):
        LatentReplayPlugin(routed, memory)
    plugin = LatentReplayPlugin(random_model, memory)
    naive(random_model, [plugin]).train(tiny_benchmark.train_stream[0])
    with pytest.raises(InputError, match="pairs cannot be replayed into a class stream, or vice versa"):
        naive(random_model, [plugin], criterion=ContrastiveCriterion()).train(tiny_pairs.train_stream[0])
    other = copy.deepcopy(random_model)
    with pytest.raises(InputError, match="made for another model than the one that is trained"):
        naive(other, [plugin]).train(tiny_benchmark.train_stream[1])
    assert not plugin.cut.armed
