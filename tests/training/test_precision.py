"""fp16 with a scaled loss: a step whose gradients overflow is not taken, and nothing counts it."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import shallow
from quick import slow_but_for_some
from trained import build, short_stream

from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.training import CheckpointPlugin, VLMNaive, criterion_for, resume
from avalanche_vlm.training.plugins import WarmupCosinePlugin
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.precision import LEAST_SCALE, TrainPrecision, rounding_factors


class Steps(VLMPlugin):
    """Which steps moved a weight, and at what rate."""

    states = {}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.moved, self.rates, self.losses = [], [], []

    def _weights(self, strategy):
        return [p.detach().clone() for p in strategy.model.parameters() if p.requires_grad]

    def before_forward(self, strategy, **kwargs):
        self.before = self._weights(strategy)

    def after_training_iteration(self, strategy, **kwargs):
        self.moved.append(not all(map(torch.equal, self.before, self._weights(strategy))))
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])
        self.losses.append(float(strategy.loss))


def trained(recipe, kind, amp="fp16", scale=2.0**10, extra=(), lr=1e-3, **how):
    """A strategy and what its steps did, its loss scaled by ``scale`` at first and by a millionth of it after each step
    that overflows."""
    benchmark = short_stream(kind)
    found, steps = build(recipe, benchmark, shallow), Steps()
    strategy = VLMNaive(
        model=found.model,
        optimizer=torch.optim.AdamW(found.model.parameters(), lr=lr),
        criterion=criterion_for(kind, found.model),
        train_mb_size=8,
        plugins=[*found.plugins, WarmupCosinePlugin(), *extra, steps],
        evaluator=EvaluationPlugin(loggers=[]),
        amp=amp,
        max_grad_norm=1.0,
        **how,
    )
    if amp == "fp16":
        strategy.precision.scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale, backoff_factor=2.0**-20, growth_interval=10**6
        )
    return benchmark, strategy, steps, found


def finite(strategy):
    return all(bool(torch.isfinite(p).all()) for p in strategy.model.parameters())


@pytest.mark.parametrize(
    ("recipe", "kind"),
    slow_but_for_some(
        [("fine-tune", "pairs"), ("zscl", "classes"), ("gnsp", "classes"), ("ctp", "pairs")],
        quick=("zscl",),
    ),
)
def test_a_step_that_overflows_is_not_taken(recipe, kind):
    benchmark, strategy, steps, found = trained(recipe, kind, scale=2.0**60)
    mean = next((p for p in found.plugins if hasattr(p, "interval")), None)
    taken = []
    for experience in benchmark.train_stream:
        steps.moved = []
        strategy.train(experience)
        taken.append(sum(steps.moved))
        if mean is not None:
            assert mean._iterations == taken[-1]
    assert finite(strategy) and 0 < sum(taken) < 8
    assert strategy.precision.scaler.get_scale() < 2.0**60
    _, other, exact, _ = trained(recipe, kind, amp=None)
    for experience in benchmark.train_stream:
        other.train(experience)
    assert steps.rates == exact.rates  # the schedule goes by iterations, and is at its end with them


def test_gradients_are_as_they_are_before_anyone_reads_them():
    class Norms(VLMPlugin):
        states = {}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.norms = []

        def after_backward(self, strategy, **kwargs):
            gradients = [p.grad for p in strategy.model.parameters() if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    found = []
    for amp in (None, "fp16"):
        norms = Norms()
        benchmark, strategy, steps, _ = trained("fine-tune", "classes", amp=amp, extra=[norms])
        strategy.train(benchmark.train_stream[0])
        assert all(steps.moved)
        found.append((norms.norms[0], steps.losses[0]))
    assert found[1] == pytest.approx(found[0], rel=2e-2)


def test_a_training_that_goes_on_has_the_scale_that_it_had(tmp_path):
    def until(count, folder=None):
        extra = [] if folder is None else [CheckpointPlugin(folder)]
        benchmark, strategy, _, _ = trained("fine-tune", "classes", scale=2.0**60, extra=extra)
        first = 0 if folder is None else resume(strategy, folder)
        for experience in benchmark.train_stream[first:count]:
            strategy.train(experience)
        return strategy

    whole = until(2)
    until(1, tmp_path)
    again = until(2, tmp_path)
    assert again.precision.state_dict() == whole.precision.state_dict()
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))


def test_gradients_that_overflow_at_any_scale_end_the_training():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, precision = torch.optim.SGD([weight], lr=0.1), TrainPrecision("fp16", torch.device("cpu"))
    with pytest.raises(NotFinite, match="overflow however small the loss is made"):
        for _ in range(200):
            optimizer.zero_grad()
            precision.scaled((weight * float("inf")).sum()).backward()
            precision.unscale(optimizer)
            precision.step(optimizer)
    assert float(weight) == 1 and precision.scaler.get_scale() < LEAST_SCALE


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match=r"^amp is None, 'bf16' or 'fp16', not 'fp8'$"):
        TrainPrecision("fp8", torch.device("cpu"))


def test_factors_are_rounded_within_the_block_alone():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for allowed in (True, False):
        with rounding_factors(allowed):
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(("recipe", "kind"), [("gift", "classes"), ("ewc-clip", "pairs"), ("keeplora", "classes")])
def test_methods_that_take_gradients_by_themselves_are_refused(recipe, kind):
    benchmark, strategy, *_ = trained(recipe, kind)
    with pytest.raises(InputError, match="does not go with fp16: it takes gradients by itself"):
        strategy.train(benchmark.train_stream[0])


def test_a_training_goes_on_after_a_step_that_broke_off():
    class Breaks(VLMPlugin):
        states = {}  # noqa: RUF012
        left = 1

        def before_update(self, strategy, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    benchmark, strategy, *_ = trained("fine-tune", "classes")
    strategy.plugins.append(Breaks())
    with pytest.raises(KeyboardInterrupt):
        strategy.train(benchmark.train_stream[0])
    scale = strategy.precision.scaler.get_scale()
    strategy.train(benchmark.train_stream[0])
    assert finite(strategy) and strategy.precision.scaler.get_scale() <= scale
