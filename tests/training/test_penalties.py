"""Penalties on weights as a term of the loss, and joined to the gradients: the same steps, in whatever order plugins
stand."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
import torch
from avalanche.training.plugins import AGEMPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from mini import mini
from recording import Recorder, naive

from avalanche_vlm.errors import NotFinite
from avalanche_vlm.losses.penalty import quadratic_penalty
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.penalties import add_penalty
from avalanche_vlm.training.plugins import AnchorPenaltyPlugin, FisherPenaltyPlugin
from avalanche_vlm.weights.average import snapshot


def strategy_of(cls, model, plugins, lr=0.05, criterion=None, optimizer=torch.optim.SGD, **settings):
    return naive(model, plugins, lr, optimizer=optimizer, strategy=cls, criterion=criterion, settings=settings)


PLUGINS = {
    "anchor": lambda: AnchorPenaltyPlugin(30.0),
    "fisher": lambda: FisherPenaltyPlugin(5000.0, samples=16),
}


def clip(strategy):
    torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), 0.5)


@pytest.mark.parametrize("which", PLUGINS)
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}, {"accumulate": 2}])
def test_a_strategy_of_ours_takes_the_steps_of_avalanches_and_reports_its_losses(which, options, tiny_benchmark):
    found = {}
    for cls in (Naive, VLMNaive):
        torch.manual_seed(0)
        model = mini()
        weights = Recorder("before_backward", lambda s: snapshot(s.model.trainable_parameters()))
        alone = Recorder("before_backward", lambda s: s.loss.item())
        whole = Recorder("before_update", lambda s: s.loss.item())
        plugins = [weights, alone, PLUGINS[which](), whole]
        if cls is Naive and "max_grad_norm" in options:
            plugins.append(Recorder("before_update", clip))
        strategy = strategy_of(cls, model, plugins, **({} if cls is Naive else options))
        for experience in tiny_benchmark.train_stream[:2]:
            torch.manual_seed(1)
            strategy.train(experience)
        found[cls] = snapshot(model.trainable_parameters()), weights.values, alone.values, whole.values
    (ends, steps, alone, whole), (other_ends, other_steps, other_alone, other_whole) = found.values()
    assert len(steps) == len(other_steps) > 4
    torch.testing.assert_close(other_whole, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other_alone, alone, rtol=1e-4, atol=1e-5)
    assert max(b - a for a, b in zip(alone, whole, strict=True)) > 1e-3  # the penalty is a good part of it
    for name, weight in ends.items():
        torch.testing.assert_close(other_ends[name], weight, rtol=1e-4, atol=2e-6)


def test_the_value_is_that_of_the_definition(tiny_benchmark):
    model = mini()
    start = snapshot(model.trainable_parameters())
    weights = Recorder("before_backward", lambda s: snapshot(s.model.trainable_parameters()))
    alone, whole = (Recorder(at, lambda s: s.loss.item()) for at in ("before_backward", "after_backward"))
    strategy_of(VLMNaive, model, [weights, alone, AnchorPenaltyPlugin(30.0), whole]).train(
        tiny_benchmark.train_stream[0]
    )
    for at, before, after in zip(weights.values, alone.values, whole.values, strict=True):
        assert after - before == pytest.approx(30.0 * quadratic_penalty(at, start).item(), abs=1e-5, rel=1e-3)


def trained(cls, make, benchmark, **options):
    """What two tasks leave, and the gradients of the second one's steps."""
    torch.manual_seed(0)
    random.seed(0)  # which A-GEM chooses its patterns by
    model = mini()
    taken = []

    class Taken(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            taken.append({name: copy.deepcopy(p.grad) for name, p in strategy.model.named_parameters()})

    strategy = strategy_of(cls, model, [*make(model), Taken()], **options)
    for experience in benchmark.train_stream[:2]:
        taken.clear()
        torch.manual_seed(1)
        strategy.train(experience)
    return snapshot(model.trainable_parameters()), taken


@pytest.mark.parametrize("cls", [Naive, VLMNaive])
def test_a_projection_of_gradients_sees_the_penalty_wherever_it_stands(cls, tiny_benchmark):
    ends, references = [], []
    for order in itertools.permutations(("agem", "penalty")):
        made = {"agem": AGEMPlugin(16, 16), "penalty": AnchorPenaltyPlugin(30.0)}
        held = Recorder("before_update", lambda s, agem=made["agem"]: along(s, agem))
        plugins = [*(made[name] for name in order), held]
        ends.append(trained(cls, lambda _model, plugins=plugins: plugins, tiny_benchmark, lr=0.2)[0])
        references.append([value for value in held.values if value is not None])
    assert references[0] and min(references[0] + references[1]) > -1e-5
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def along(strategy, agem):
    """The step's gradient along AGEM's reference; None before there is one."""
    if not len(agem.reference_gradients):
        return None
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in strategy.model.parameters()]
    return float(torch.cat([gradient.flatten() for gradient in gradients]) @ agem.reference_gradients)


def test_experts_that_nobody_chose_rest_wherever_the_penalty_stands(tiny_benchmark):
    found = []
    for first in (True, False):

        def make(model, first=first):
            experts = recipes.build("moe-adapters", model=model, experts=24, k=1)
            penalty = AnchorPenaltyPlugin(1.0)
            return [penalty, *experts] if first else [*experts, penalty]

        ends, taken = trained(VLMNaive, make, tiny_benchmark, optimizer=torch.optim.AdamW, lr=1e-3)
        found.append((ends, [{name for name, g in step.items() if g is None and "expert" in name} for step in taken]))
    assert any(found[0][1]) and found[0][1] == found[1][1]
    assert all(torch.equal(weight, found[1][0][name]) for name, weight in found[0][0].items())


def test_a_penalty_that_is_not_finite_stops_before_the_step(tiny_benchmark):
    model = mini()
    weights = Recorder("before_update", lambda s: snapshot(s.model.trainable_parameters()))
    strategy = strategy_of(VLMNaive, model, [AnchorPenaltyPlugin(1e38), weights])
    with pytest.raises(NotFinite, match=r"the loss became (inf|nan) at experience 0, epoch 0, iteration 1"):
        strategy.train(tiny_benchmark.train_stream[0])
    (before,) = weights.values
    assert all(torch.isfinite(weight).all() for weight in model.trainable_parameters().values())
    assert any(not torch.equal(weight, before[name]) for name, weight in model.trainable_parameters().items())


def test_a_loss_that_is_no_number_stops_before_its_gradients(tiny_benchmark):
    model = mini()
    strategy = strategy_of(VLMNaive, model, [AnchorPenaltyPlugin(1.0)], criterion=lambda x, _y: x.sum() * float("nan"))
    with pytest.raises(NotFinite, match="the loss became nan at experience 0, epoch 0, iteration 0"):
        strategy.train(tiny_benchmark.train_stream[0])
    assert all(p.grad is None for p in model.parameters())


def test_a_training_that_broke_off_leaves_no_penalty_behind(tiny_benchmark):
    class Breaks(SupervisedPlugin):
        armed = True

        def before_backward(self, strategy, **kwargs):
            if self.armed:
                raise KeyError("now")

    model, breaks = mini(), Breaks()
    gradients = Recorder("before_update", lambda s: s.loss.item())
    strategy = strategy_of(VLMNaive, model, [AnchorPenaltyPlugin(1.0), breaks, gradients])
    with pytest.raises(KeyError):
        strategy.train(tiny_benchmark.train_stream[0])
    assert len(strategy.joining) == 1
    breaks.armed = False
    strategy.train(tiny_benchmark.train_stream[0])
    assert not strategy.joining and gradients.values


@pytest.mark.parametrize("scaled", [False, True])
def test_a_penalty_alone_draws_weights_back(scaled, tiny_benchmark):
    """The criterion says nothing: there is no backward pass, and the weights go to the anchor by themselves. Where a
    loss would be scaled, gradients that nobody has scaled are taken as they are."""
    model = mini()
    anchor = {name: weight + 1 for name, weight in snapshot(model.trainable_parameters()).items()}

    class Draws(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            add_penalty(strategy, anchor, factor=0.5)

    strategy = strategy_of(VLMNaive, model, [Draws()], lr=1.0, criterion=lambda x, _y: x.detach().sum() * 0)
    if scaled:
        strategy.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    strategy.train(tiny_benchmark.train_stream[0])
    for name, weight in model.trainable_parameters().items():
        torch.testing.assert_close(weight.detach(), anchor[name])
