"""Held-out sets are read in the precision of the strategy."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import mini
from trained import build, short_stream

from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.training import VLMNaive, criterion_for


@pytest.mark.parametrize("amp", [None, "bf16"])
def test_held_out_sets_are_read_in_the_precision_of_the_strategy(amp):
    benchmark = short_stream("pairs")
    found = build("fine-tune", benchmark, mini)
    seen = []
    found.model.tower("image").register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    strategy = VLMNaive(
        model=found.model,
        optimizer=torch.optim.SGD(found.model.parameters(), lr=1e-3),
        criterion=criterion_for("pairs", found.model),
        eval_mb_size=8,
        evaluator=EvaluationPlugin(PerformanceMatrix(), HeldOutScores(benchmark.held_out), loggers=[]),
        amp=amp,
    )
    strategy.eval(benchmark.test_stream)
    # Each batch of the test sets once, although the matrix needs features, and each held-out set.
    assert seen == [amp == "bf16"] * (
        sum(-(-len(e.dataset) // 8) for e in benchmark.test_stream) + len(benchmark.held_out)
    )
