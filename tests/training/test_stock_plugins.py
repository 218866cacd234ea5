"""Avalanche's stock plugins and strategies on our streams and models, unmodified.

``docs/stock_plugins.md`` says the same in words; the last test holds the two together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import plugins as stock
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import DER, ER_ACE, Cumulative, Naive

from avalanche_vlm.models import create_vlm
from avalanche_vlm.training import criterion_for

DOCS = Path(__file__).parents[2] / "docs" / "stock_plugins.md"


class Stock(NamedTuple):
    """How a plugin or strategy is made, and what shows that it acted."""

    make: Callable
    acted: Callable
    strategy: bool = False


def plugin(make: Callable, acted: Callable) -> Stock:
    return Stock(make, acted)


def finite(importances) -> bool:
    values = [v.data if hasattr(v, "data") else v for v in importances]
    return len(values) > 0 and all(torch.isfinite(v).all() for v in values) and any((v != 0).any() for v in values)


def scheduler(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


STOCK: dict[str, Stock] = {
    "Replay": plugin(lambda o: stock.ReplayPlugin(20), lambda p, s: len(p.storage_policy.buffer) == 20),
    "EWC": plugin(lambda o: stock.EWCPlugin(1.0), lambda p, s: all(finite(i.values()) for i in p.importances.values())),
    "LwF": plugin(lambda o: stock.LwFPlugin(1.0, 2.0), lambda p, s: p.lwf.prev_model is not None),
    "SI": plugin(lambda o: stock.SynapticIntelligencePlugin(0.1), lambda p, s: finite(p.ewc_data[1].values())),
    "MAS": plugin(lambda o: stock.MASPlugin(0.1), lambda p, s: finite(p.importance.values())),
    "AGEM": plugin(
        lambda o: stock.AGEMPlugin(patterns_per_experience=8, sample_size=8),
        lambda p, s: len(p.buffers) == 2 and p.reference_gradients is not None,
    ),
    "GEM": plugin(lambda o: stock.GEMPlugin(8, 0.5), lambda p, s: [len(x) for x in p.memory_x.values()] == [8, 8]),
    "MIR": plugin(
        lambda o: stock.MIRPlugin(batch_size_mem=2, mem_size=40, subsample=16),
        lambda p, s: s.replayed and len(p.storage_policy.buffer) > 20,
    ),
    "RWalk": plugin(lambda o: stock.RWalkPlugin(delta_t=1), lambda p, s: finite(p.exp_penalties.values())),
    "GDumb": plugin(lambda o: stock.GDumbPlugin(20), lambda p, s: 0 < len(s.adapted_seen) <= 20),
    "CoPE": plugin(lambda o: stock.CoPEPlugin(mem_size=20, n_classes=19, p_size=19), lambda p, s: len(p.p_mem) > 0),
    "EarlyStopping": plugin(
        lambda o: stock.EarlyStoppingPlugin(1, "train_stream", metric_name="Top1_Acc_Stream"),
        lambda p, s: p.best_state is not None and p.best_val is not None,
    ),
    "LRScheduler": plugin(
        lambda o: stock.LRSchedulerPlugin(scheduler(o), reset_scheduler=False, reset_lr=False),
        lambda p, s: s.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 4),
    ),
    "DER": Stock(DER, lambda p, s: len(s.storage_policy.buffer) > 0 and s.replayed, strategy=True),
    "ER_ACE": Stock(ER_ACE, lambda p, s: len(s.storage_policy.buffer) > 0, strategy=True),
    "Cumulative": Stock(Cumulative, lambda p, s: len(s.dataset) == 64, strategy=True),
}
STRATEGY_OPTIONS = {"DER": {"mem_size": 20, "batch_size_mem": 8}, "ER_ACE": {"mem_size": 20, "batch_size_mem": 8}}


class Cannot(NamedTuple):
    """What fails, and how."""

    error: type[Exception]
    message: str
    reason: str


SI_ON_CPU = Cannot(
    AssertionError,
    "the plugin did nothing",
    "runs without effect on CPU: it keeps views of the live weights, so its trajectory stays zero (on any model)",
)
CANNOT: dict[tuple[str, str], Cannot] = {
    **{("SI", kind): SI_ON_CPU for kind in ("task", "union", "pairs")},
    ("LwF", "pairs"): Cannot(
        IndexError, "out of bounds", "selects logit columns by class id; in-batch logits have one column per pair"
    ),
    **{
        ("CoPE", kind): Cannot(
            AssertionError,
            "the loss left its range",
            "takes the model's outputs for features of unit length; on logits its loss overflows",
        )
        for kind in ("task", "union")
    },
    ("CoPE", "pairs"): Cannot(
        RuntimeError, "Sizes of tensors must match", "keeps prototypes of one output size; in-batch logits have none"
    ),
    ("DER", "task"): Cannot(
        AssertionError,
        "the loss left its range",
        "stores logits computed without task labels, so it distils masked classes: use union or seen",
    ),
    ("DER", "pairs"): Cannot(
        IndexError, "out of bounds", "hard-codes cross-entropy on class ids once its buffer fills"
    ),
    ("ER_ACE", "pairs"): Cannot(
        IndexError, "out of bounds", "hard-codes cross-entropy on class ids once its buffer fills"
    ),
}
STREAMS = ("task", "union", "pairs")


@pytest.fixture(scope="module")
def streams():
    from avalanche_vlm.benchmarks import picturebook

    small = {"n_train": 32, "n_test": 16, "n_held_out": 8, "n_reference": 8}
    return {
        "task": picturebook.mtil_like(order=["sketches", "night"], **small),
        "union": picturebook.mtil_like(order=["sketches", "night"], label_space="union", **small),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **small),
    }


class Losses(SupervisedPlugin):
    """Every loss, and what the training data had become."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def after_backward(self, strategy, **kwargs) -> None:
        self.values.append(float(strategy.loss))
        strategy.adapted_seen = strategy.adapted_dataset
        # MIR and DER replay from a loader that they have only once their buffer is full enough.
        loaders = [getattr(part, "replay_loader", None) for part in (strategy, *strategy.plugins)]
        strategy.replayed = any(loader is not None for loader in loaders)


def train(name: str, kind: str, streams) -> tuple:
    torch.manual_seed(0)
    # MIR differentiates with respect to every parameter, so none may be frozen.
    benchmark, model, losses = streams[kind], create_vlm("tiny", freeze=()), Losses()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    chosen = STOCK[name]
    made = None if chosen.strategy else chosen.make(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(
            accuracy_metrics(stream=True),
            loggers=[],
        )
        strategy = (chosen.make if chosen.strategy else Naive)(
            model=model,
            optimizer=optimizer,
            criterion=criterion_for(benchmark.kind, model),
            train_mb_size=8,
            eval_mb_size=16,
            plugins=[losses] if made is None else [made, losses],
            evaluator=evaluator,
            **({"eval_every": 1} if name == "EarlyStopping" else {}),
            **STRATEGY_OPTIONS.get(name, {}),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=False))
    return made, strategy, losses.values, moved


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", STOCK)
def test_stock(name, kind, streams):
    cannot = CANNOT.get((name, kind))
    if cannot is not None:
        with pytest.raises(cannot.error, match=cannot.message):
            check(name, kind, streams)
    else:
        check(name, kind, streams)


def check(name: str, kind: str, streams) -> None:
    made, strategy, losses, moved = train(name, kind, streams)
    assert losses and all(abs(x) < 1e4 for x in losses), "the loss left its range"
    assert moved and all(torch.isfinite(p).all() for p in strategy.model.parameters())
    assert STOCK[name].acted(made, strategy), "the plugin did nothing"


def test_stock_replay_with_worker_processes(streams):
    model = create_vlm("tiny")
    replay = stock.ReplayPlugin(20)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        criterion=criterion_for("pairs", model),
        train_mb_size=16,
        plugins=[replay],
        evaluator=None,
    )
    for experience in streams["pairs"].train_stream:
        strategy.train(experience, num_workers=1)
    assert len(replay.storage_policy.buffer) == 20


def test_the_docs_say_the_same():
    rows = [line.strip("| ").split("|") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    documented = {cells[0].strip(): [c.strip() for c in cells[1:4]] for cells in rows[2:]}
    assert list(documented) == list(STOCK)
    for name, cells in documented.items():
        for kind, cell in zip(STREAMS, cells, strict=True):
            cannot = CANNOT.get((name, kind))
            assert cell == ("works" if cannot is None else f"no: {cannot.reason}"), (name, kind)
