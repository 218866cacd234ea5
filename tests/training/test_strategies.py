"""The mixin: what trains, in which precision, and when to stop."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Cumulative, Naive

from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.training import VLMMixin, VLMNaive, criterion_for, recipes
from avalanche_vlm.training.criteria import ContrastiveCriterion, SigmoidCriterion
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.weights.average import snapshot


def strategy_of(model, kind=VLMNaive, plugins=(), lr=1e-3, **options):
    options.setdefault("criterion", torch.nn.CrossEntropyLoss())
    return kind(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr),
        train_mb_size=16,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=None,
        **options,
    )


def optimized(strategy) -> set[int]:
    return {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}


def test_the_optimizer_holds_what_trains_and_nothing_else(random_model, tiny_benchmark):
    random_model.freeze("text")
    strategy = strategy_of(random_model)
    strategy.train(tiny_benchmark.train_stream[0])
    assert optimized(strategy) == {id(p) for p in random_model.trainable_parameters().values()}
    assert len(optimized(strategy)) == len(list(random_model.tower_parameters("image")))
    random_model.unfreeze("text").freeze("image")
    strategy.train(tiny_benchmark.train_stream[1])
    assert optimized(strategy) == {id(p) for _, p in random_model.tower_parameters("text")}


def test_new_modules_enter_the_optimizer_and_old_ones_leave(random_model, tiny_benchmark):
    (plugin,) = recipes.build("lora", model=random_model, rank=2)
    strategy = strategy_of(random_model, plugins=[plugin])
    for t, experience in enumerate(tiny_benchmark.train_stream):
        strategy.train(experience)
        assert optimized(strategy) == {id(p) for p in plugin.pool.parameters(f"task_{t}")}


class FirstMoments(SupervisedPlugin):
    """Records how much optimizer state there is when an experience begins."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.sizes.append(sum(bool(state) for state in strategy.optimizer.state.values()))


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_every_experience_starts_with_fresh_moments_unless_kept(random_model, tiny_benchmark, keep):
    moments = FirstMoments()
    strategy = strategy_of(random_model, plugins=[moments], keep_optimizer_state=keep)
    strategy.train(tiny_benchmark.train_stream)
    assert moments.sizes[0] == 0 and bool(moments.sizes[1]) == keep


class LastMoments(SupervisedPlugin):
    """Records how many weights have moments when the last step of an experience is over."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def _record(self, when: str, strategy) -> None:
        self.sizes[when] = sum(bool(state) for state in strategy.optimizer.state.values())

    def after_training_epoch(self, strategy, **kwargs) -> None:
        self._record("epoch", strategy)

    def after_training_exp(self, strategy, **kwargs) -> None:
        self._record("experience", strategy)

    def after_training(self, strategy, **kwargs) -> None:
        self._record("training", strategy)


MAKES_ROOM = ("wise-ft", "magmax", "ewc-clip")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("recipe", ["fine-tune", *MAKES_ROOM])
def test_moments_are_there_until_a_plugin_needs_their_room(recipe, keep, random_model, tiny_benchmark):
    moments = LastMoments()
    plugins = recipes.build(recipe, model=random_model, **({"samples": 4} if recipe == "ewc-clip" else {}))
    strategy = strategy_of(random_model, plugins=[moments, *plugins], keep_optimizer_state=keep)
    strategy.train(tiny_benchmark.train_stream[0])
    all_of_them = len(random_model.trainable_parameters())
    after = 0 if recipe in MAKES_ROOM and not keep else all_of_them
    assert moments.sizes == {"epoch": all_of_them, "experience": all_of_them, "training": after}


def test_negatives_are_refused_where_there_are_pairs(random_model, tiny_pairs):
    criterion = criterion_for("pairs", random_model)
    strategy = strategy_of(random_model, criterion=criterion, negatives=2)
    with pytest.raises(InputError, match=r"^negatives needs a class-labelled stream; this one has image-text pairs$"):
        strategy.train(tiny_pairs.train_stream[0])


def test_a_loss_that_is_not_finite_stops_with_a_sentence(random_model, tiny_benchmark):
    with torch.no_grad():
        random_model.clip.visual.proj.fill_(float("nan"))
    strategy = strategy_of(random_model)
    with pytest.raises(InputError, match=r"loss became nan at experience 0, epoch 0, iteration 0.*now 0\.001"):
        strategy.train(tiny_benchmark.train_stream[0])


class BreaksAtTheEnd(VLMPlugin, supports_distributed=True):
    """Leaves a weight that is no number, when no loss will be computed of it any more."""

    def after_training_exp(self, strategy, **kwargs) -> None:
        with torch.no_grad():
            strategy.model.clip.visual.proj[0, 0] = float("inf")


def test_weights_are_looked_at_after_the_last_step_of_an_experience(random_model, tiny_benchmark):
    strategy = strategy_of(random_model, plugins=[BreaksAtTheEnd()])
    with pytest.raises(NotFinite, match=r"after experience 0 1 of \d+ weights .* clip\.visual\.proj: lower"):
        strategy.train(tiny_benchmark.train_stream[0])


class GradientNorm(SupervisedPlugin):
    """Records the norm of the gradient that the optimizer used."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def after_update(self, strategy, **kwargs) -> None:
        gradients = [p.grad for p in strategy.model.parameters() if p.grad is not None]
        self.norms.append(torch.stack([g.norm() for g in gradients]).norm().item())


def test_gradients_are_clipped(random_model, tiny_benchmark):
    norms, start = GradientNorm(), snapshot(random_model.state_dict())
    strategy_of(random_model, plugins=[norms]).train(tiny_benchmark.train_stream[0])
    random_model.load_state_dict(start)
    largest = max(norms.norms)
    clipped = GradientNorm()
    limit = largest / 3
    strategy_of(random_model, plugins=[clipped], max_grad_norm=limit).train(tiny_benchmark.train_stream[0])
    assert max(clipped.norms) == pytest.approx(limit, rel=1e-3)  # the limit was met, and not passed


def test_bf16_autocast_trains_fp32_weights(random_model, tiny_benchmark):
    seen = []

    class Watch(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs) -> None:
            seen.append((torch.is_autocast_enabled("cpu"), strategy.mb_output.dtype))

    handle = random_model.clip.visual.transformer.resblocks[0].mlp.c_fc.register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    before = random_model.clip.visual.proj.detach().clone()
    strategy_of(random_model, plugins=[Watch()], amp="bf16").train(tiny_benchmark.train_stream[0])
    handle.remove()
    assert torch.bfloat16 in seen and (False, torch.float32) in seen
    assert random_model.clip.visual.proj.dtype == torch.float32
    assert not torch.equal(before, random_model.clip.visual.proj)


def test_gradients_end_with_their_epoch(random_model, tiny_benchmark):
    class Watcher(SupervisedPlugin):
        steps, left = 0, ()

        def before_update(self, strategy, **kwargs):
            assert any(p.grad is not None for p in strategy.model.parameters())
            self.steps += 1

        def after_training_epoch(self, strategy, **kwargs):
            self.left = [n for n, p in strategy.model.named_parameters() if p.grad is not None]

    watcher = Watcher()
    strategy_of(random_model, plugins=[watcher]).train(tiny_benchmark.train_stream[0])
    assert watcher.steps and not watcher.left


def test_the_mixin_serves_any_strategy(random_model, tiny_benchmark):
    class VLMCumulative(VLMMixin, Cumulative):
        pass

    random_model.freeze("text")
    strategy = strategy_of(random_model, VLMCumulative, max_grad_norm=1.0)
    strategy.train(tiny_benchmark.train_stream)
    assert len(optimized(strategy)) == len(list(random_model.tower_parameters("image")))
    assert len(strategy.dataset) == 128


@pytest.mark.parametrize("kind", [VLMNaive, Naive, Cumulative])
def test_drop_last_does_not_leave_a_task_untrained_without_a_word(random_model, tiny_benchmark, kind):
    """In ours with or without a plugin of ours, in Avalanche's own as soon as one is there."""
    strategy = strategy_of(random_model, kind, plugins=[] if kind is VLMNaive else [VLMPlugin()])
    strategy.train_mb_size = 65  # one more than the task has
    before = snapshot(random_model.state_dict())
    said = "experience 0 has 64 training samples, fewer than a batch of 65, and drop_last .* lower train_mb_size to 64"
    with pytest.raises(InputError, match=said):
        strategy.train(tiny_benchmark.train_stream[0], drop_last=True)
    assert all(torch.equal(before[name], value) for name, value in snapshot(random_model.state_dict()).items())
    strategy.train_mb_size = 64
    strategy.train(tiny_benchmark.train_stream[0], drop_last=True)
    assert any(not torch.equal(before[name], value) for name, value in snapshot(random_model.state_dict()).items())


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_training_without_gradients_is_not_said_to_be_of_a_frozen_model(random_model, tiny_benchmark, without):
    strategy = strategy_of(random_model, VLMNaive)
    with pytest.raises(InputError, match="call train outside of no_grad and inference_mode"), without():
        strategy.train(tiny_benchmark.train_stream[0])


def test_bad_settings(random_model):
    with pytest.raises(InputError, match="amp is None, 'bf16' or 'fp16', not 'fp8'"):
        strategy_of(random_model, amp="fp8")
    with pytest.raises(InputError, match="max_grad_norm: 0 is not a finite number above 0"):
        strategy_of(random_model, max_grad_norm=0)


def test_criteria_follow_the_kind_of_stream_and_of_model(random_model):
    assert isinstance(criterion_for("pairs", random_model), ContrastiveCriterion)
    random_model.clip.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    assert isinstance(criterion_for("pairs", random_model), SigmoidCriterion)
    assert criterion_for("classes", random_model, 0.2).label_smoothing == 0.2


@pytest.mark.gpu
def test_training_on_cuda(tiny_benchmark):
    from avalanche_vlm.models import create_vlm

    model = create_vlm("tiny", "random", device="cuda")
    strategy = strategy_of(model, amp="bf16", device=torch.device("cuda"))
    strategy.train(tiny_benchmark.train_stream)
    strategy.eval(tiny_benchmark.test_stream)
    assert next(model.parameters()).is_cuda
