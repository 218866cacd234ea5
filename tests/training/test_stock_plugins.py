"""Avalanche's stock plugins and strategies on our streams and models, unmodified.

``docs/stock_plugins.md`` says the same in words; the last test holds the two together.
"""

from __future__ import annotations

import math
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
from mini import mini
from quick import slow_but_for_some

from avalanche_vlm.training import criterion_for
from avalanche_vlm.training.data import images_of
from avalanche_vlm.weights.average import snapshot

DOCS = Path(__file__).parents[2] / "docs" / "stock_plugins.md"
STREAMS = ("task", "union", "pairs")


class Before(SupervisedPlugin):
    """Stands before the stock plugin: the loss as the strategy made it."""

    loss = 0.0

    def before_backward(self, strategy, **kwargs) -> None:
        self.loss = strategy.loss.item()


class After(SupervisedPlugin):
    """Stands after the stock plugin: what it made of the loss and of the batch, by experience."""

    def __init__(self, before: Before) -> None:
        super().__init__()
        self.before = before
        self.losses: list[list[float]] = []
        self.added: list[list[float]] = []
        self.replayed: list[int] = []
        self.moved: list[bool] = []
        self._old: set[bytes] = set()
        self._seen: set[bytes] = set()

    def before_training_epoch(self, strategy, **kwargs) -> None:
        if len(self.losses) == strategy.clock.train_exp_counter:
            self.losses.append([])
            self.added.append([])
            self.replayed.append(0)
            self.moved.append(False)
            self._old |= self._seen
            self._start = [p.detach().clone() for p in strategy.model.parameters()]

    def after_forward(self, strategy, **kwargs) -> None:
        x, y = strategy.mbatch[:2]
        pictures = {picture.numpy().tobytes() for picture in images_of(x)}
        self.replayed[-1] += len(pictures & self._old)
        self._seen |= pictures
        if x is not images_of(x):
            same_text = (x.tokens[:, None] == x.tokens[None]).all(-1)
            assert torch.equal(y[:, None] == y[None], same_text), "positives are not the pairs of equal captions"

    def before_backward(self, strategy, **kwargs) -> None:
        self.losses[-1].append(strategy.loss.item())
        self.added[-1].append(strategy.loss.item() - self.before.loss)

    def after_update(self, strategy, **kwargs) -> None:
        now = strategy.model.parameters()
        self.moved[-1] |= any(not torch.equal(a, b) for a, b in zip(self._start, now, strict=True))


class Trained(NamedTuple):
    """A strategy after both experiences, its stock plugin (None if the strategy is the point), what we saw."""

    strategy: Naive
    plugin: SupervisedPlugin
    seen: After


class Stock(NamedTuple):
    """How a plugin or strategy is made, and what shows that it acted in the second experience."""

    make: Callable
    acted: Callable[[Trained], bool]
    strategy: dict | None = None
    freeze: tuple[str, ...] = ("scale",)


def penalised(trained: Trained) -> bool:
    """It added to the loss in the second experience, and only there."""
    first, second = trained.seen.added
    return not any(first) and max(second) > 0


def replayed(trained: Trained) -> bool:
    """Pictures of the first experience came back in the second."""
    return trained.seen.replayed[1] > 0


def stopped(trained: Trained) -> bool:
    """After the first of its epochs, and the weights from before it are back."""
    best = trained.plugin.best_state
    return [len(losses) for losses in trained.seen.losses] == [4, 4] and all(
        torch.equal(value, best[name]) for name, value in snapshot(trained.strategy.model.state_dict()).items()
    )


def some(values: torch.Tensor) -> bool:
    """Finite and not all zero."""
    return bool(torch.isfinite(values).all() and (values != 0).any())


def halving(optimizer: torch.optim.Optimizer) -> SupervisedPlugin:
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    return stock.LRSchedulerPlugin(schedule, reset_scheduler=False, reset_lr=False)


def impatient(optimizer: torch.optim.Optimizer) -> SupervisedPlugin:
    # No accuracy rises by 2, so training stops when patience ends.
    return stock.EarlyStoppingPlugin(1, "train_stream", metric_name="Top1_Acc_Stream", margin=2.0)


STOCK: dict[str, Stock] = {
    "Replay": Stock(lambda o: stock.ReplayPlugin(20), replayed),
    "EWC": Stock(lambda o: stock.EWCPlugin(1e2), penalised),
    "LwF": Stock(lambda o: stock.LwFPlugin(1.0, 2.0), penalised),
    "SI": Stock(lambda o: stock.SynapticIntelligencePlugin(1e3), penalised),
    "MAS": Stock(lambda o: stock.MASPlugin(1.0), penalised),
    "AGEM": Stock(lambda o: stock.AGEMPlugin(8, 8), lambda t: some(t.plugin.reference_gradients)),
    "GEM": Stock(lambda o: stock.GEMPlugin(8, 0.5), lambda t: len(t.plugin.G) == 1 and some(t.plugin.G)),
    "MIR": Stock(lambda o: stock.MIRPlugin(batch_size_mem=2, mem_size=40, subsample=16), penalised, freeze=()),
    "RWalk": Stock(lambda o: stock.RWalkPlugin(delta_t=1), penalised),
    "GDumb": Stock(lambda o: stock.GDumbPlugin(20), replayed),
    "CoPE": Stock(lambda o: stock.CoPEPlugin(20, n_classes=19, p_size=19), replayed),
    "EarlyStopping": Stock(impatient, stopped),
    "LRScheduler": Stock(halving, lambda t: t.strategy.optimizer.param_groups[0]["lr"] == 1e-3 / 4),
    "DER": Stock(DER, replayed, strategy={"mem_size": 20, "batch_size_mem": 8}),
    "ER_ACE": Stock(
        ER_ACE,
        lambda t: 0 in t.strategy.mb_buffer_tid or bool((t.strategy.mb_buffer_y < 10).any()),
        strategy={"mem_size": 20, "batch_size_mem": 8},
    ),
    "Cumulative": Stock(Cumulative, replayed, strategy={}),
}


class Cannot(NamedTuple):
    """What fails, and how."""

    error: type[Exception]
    message: str
    reason: str


SI_ON_CPU = Cannot(
    AssertionError,
    "did nothing",
    "runs without effect on CPU: it keeps views of the live weights, so its trajectory stays zero (on any model)",
)
COPE_ON_LOGITS = Cannot(
    AssertionError,
    "the loss is nan",
    "takes the model's outputs for features of unit length; on logits its loss overflows",
)
CROSS_ENTROPY = Cannot(IndexError, "out of bounds", "hard-codes cross-entropy on class ids once its buffer fills")
CANNOT: dict[tuple[str, str], Cannot] = {
    **{("SI", kind): SI_ON_CPU for kind in STREAMS},
    ("CoPE", "task"): COPE_ON_LOGITS,
    ("CoPE", "union"): COPE_ON_LOGITS,
    ("CoPE", "pairs"): Cannot(
        RuntimeError, "Sizes of tensors must match", "keeps prototypes of one output size; in-batch logits have none"
    ),
    ("LwF", "pairs"): Cannot(
        IndexError, "out of bounds", "selects logit columns by class id; in-batch logits have one column per pair"
    ),
    ("DER", "task"): Cannot(
        AssertionError,
        r"the loss is \d\.\d+e\+0[67]",
        "stores logits computed without task labels, so it distils masked classes: use union or seen",
    ),
    ("DER", "pairs"): CROSS_ENTROPY,
    ("ER_ACE", "pairs"): CROSS_ENTROPY,
}


@pytest.fixture(scope="module")
def streams():
    from avalanche_vlm.benchmarks import picturebook

    small = {"n_train": 32, "n_test": 16, "n_held_out": 8, "n_reference": 8}
    return {
        "task": picturebook.mtil_like(order=["sketches", "night"], **small),
        "union": picturebook.mtil_like(order=["sketches", "night"], label_space="union", **small),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **small),
    }


def train(name: str, benchmark, freeze: tuple[str, ...] | None = None, **options) -> Trained:
    """Two experiences with Avalanche's own strategy, then its evaluation."""
    torch.manual_seed(0)
    chosen = STOCK[name]
    model = mini(chosen.freeze if freeze is None else freeze)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    plugin = chosen.make(optimizer) if chosen.strategy is None else None
    before = Before()
    after = After(before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = (Naive if plugin else chosen.make)(
            model=model,
            optimizer=optimizer,
            criterion=criterion_for(benchmark.kind, model),
            # A batch must leave classes out: MIR replays only what the last one lacked.
            train_mb_size=8,
            train_epochs=3 if name == "EarlyStopping" else 1,
            eval_mb_size=8,
            eval_every=1 if name == "EarlyStopping" else -1,
            plugins=[before, *([plugin] if plugin else []), after],
            evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
            **(chosen.strategy or {}),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience, **options)
        strategy.eval(benchmark.test_stream)
    return Trained(strategy, plugin, after)


def check(name: str, benchmark) -> None:
    trained = train(name, benchmark)
    for loss in (loss for experience in trained.seen.losses for loss in experience):
        assert math.isfinite(loss) and abs(loss) < 1e4, f"the loss is {loss:g}"
    assert trained.seen.moved == [True, True]
    assert all(torch.isfinite(p).all() for p in trained.strategy.model.parameters())
    assert STOCK[name].acted(trained), f"{name} did nothing"


QUICK = ("Replay", "EWC", "LwF", "AGEM", "GDumb", "CoPE", "LRScheduler", "EarlyStopping")
"""One of each kind of plugin: buffers, penalties, teachers, projections, and what watches the training."""


@pytest.mark.parametrize("kind", slow_but_for_some(STREAMS, ["union"]))
@pytest.mark.parametrize("name", slow_but_for_some(STOCK, QUICK))
def test_stock(name, kind, streams):
    cannot = CANNOT.get((name, kind))
    if cannot is None:
        check(name, streams[kind])
    else:
        with pytest.raises(cannot.error, match=cannot.message):
            check(name, streams[kind])


def test_mir_differentiates_with_respect_to_every_parameter(streams):
    with pytest.raises(RuntimeError, match="does not require grad"):
        train("MIR", streams["union"], freeze=("scale",))


def test_replay_of_pairs_with_a_worker_process(streams):
    assert replayed(train("Replay", streams["pairs"], num_workers=1))


def test_the_docs_say_the_same():
    rows = [line.strip("| ").split("|") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0][1:]] == ["label space task", "label space union", "pairs"]
    documented = {cells[0].strip(): [c.strip() for c in cells[1:]] for cells in rows[2:]}
    assert list(documented) == list(STOCK)
    for name, cells in documented.items():
        for kind, cell in zip(STREAMS, cells, strict=True):
            cannot = CANNOT.get((name, kind))
            assert cell == ("works" if cannot is None else f"no: {cannot.reason}"), (name, kind)
