"""The account of a run that several processes went on with: seconds and costs count once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mini import mini

from avalanche_vlm.evaluation import ledger as ledgers
from avalanche_vlm.evaluation.ledger import Ledger, PeakMemory
from avalanche_vlm.evaluation.passes import FlopCounter, PassesPlugin
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.studies.account import RunAccount, Stopwatch


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stopwatch_counts_what_it_runs_for():
    wall, cpu = Time(), Time()
    watch = Stopwatch(wall=wall, cpu=cpu)
    wall.now = 5.0
    with watch.running():
        wall.now, cpu.now = 7.0, 1.0
        assert (watch.seconds(), watch.seconds("cpu")) == (2.0, 1.0)
        with watch.paused():
            wall.now = 100.0
            state = watch.state_dict()
            wall.now = 200.0
        wall.now += 0.5
    again = Stopwatch(wall=wall, cpu=cpu)
    again.load_state_dict(state)
    assert again.seconds() == 2.0
    wall.now += 50
    assert (watch.seconds(), watch.seconds("cpu")) == (2.5, 1.0)
    with watch.running():
        wall.now += 1
    assert watch.seconds() == 3.5


def test_a_pause_of_a_watch_that_stands_changes_nothing():
    wall = Time()
    watch = Stopwatch(wall=wall)
    with watch.paused():
        wall.now = 3.0
    assert watch.seconds() == 0


def test_work_that_is_done_again_counts_once():
    wall = Time()
    first, second = Stopwatch(wall=wall), Stopwatch(wall=wall)
    with first.running():
        wall.now = 10.0
        state = first.state_dict()
        wall.now = 14.0  # lost with the process
    wall.now = 60.0
    with second.running():
        wall.now = 63.0  # to get back to where the state was taken
        second.load_state_dict(state)
        wall.now = 67.0
        wall.now = 70.0
    assert second.seconds() == 10 + 7
    assert first.seconds() == 14


@pytest.fixture
def account(tiny_benchmark) -> RunAccount:
    return RunAccount(Ledger(mini(), tiny_benchmark), [])


def test_the_account_goes_on_where_it_was(account, tiny_benchmark):
    memory = SimpleNamespace(stored=lambda: StoredBytes(ram=3, disk=40))
    account.ledger.after_experience([memory], torch.optim.SGD([torch.zeros(7, requires_grad=True)], lr=1.0))
    account.rows = 2
    fresh = RunAccount(Ledger(mini(), tiny_benchmark), [])
    fresh.load_state_dict(account.state_dict())
    assert fresh.rows == 2 and fresh.ledger.costs == account.ledger.costs
    assert fresh.ledger.costs["stored_bytes"] == 43 and fresh.ledger.costs["trainable_parameters"] == 7
    # Less at a later end changes nothing, more does, and RAM and disk are of one and the same end.
    fresh.ledger.after_experience(
        [SimpleNamespace(stored=lambda: StoredBytes(ram=42))], torch.optim.SGD([torch.zeros(1)])
    )
    assert fresh.ledger.state_dict()["_ram"] == 3
    fresh.ledger.after_experience(
        [SimpleNamespace(stored=lambda: StoredBytes(ram=44))], torch.optim.SGD([torch.zeros(1)])
    )
    assert (fresh.ledger.state_dict()["_ram"], fresh.ledger.state_dict()["_disk"]) == (44, 0)


@pytest.mark.parametrize(
    ("earlier", "now", "known", "found"),
    [(100, 40, True, 100), (40, 100, True, 100), (100, None, True, None), (0, 40, False, None)],
)
def test_the_most_memory_is_that_of_any_process_and_unknown_if_it_is_of_one(monkeypatch, earlier, now, known, found):
    monkeypatch.setattr(PeakMemory, "_measured", True)
    fresh = PeakMemory(torch.device("cpu"))
    fresh.load_state_dict({"_most": earlier, "_known": known})
    fresh._before = None if now is None else 0
    monkeypatch.setattr(ledgers, "_resident", lambda name: now)
    assert fresh.read() == found
    again = PeakMemory(torch.device("cpu"))
    again._before = 0
    again.load_state_dict(fresh.state_dict())
    monkeypatch.setattr(ledgers, "_resident", lambda name: 0)
    assert again.read() == found


def test_operations_that_are_done_again_count_once():
    product = lambda: torch.ones(2, 3) @ torch.ones(3, 4)  # noqa: E731
    with FlopCounter() as counter:
        product()
    once, model = counter.total, mini()
    assert once == 2 * 2 * 3 * 4
    strategy = SimpleNamespace(train_epochs=1, experience=SimpleNamespace(dataset=range(10)))

    def begun(state: dict | None = None) -> PassesPlugin:
        plugin = PassesPlugin(model, 0)
        plugin.before_training(strategy)
        plugin.before_training_exp(strategy)
        product()
        if state is not None:
            plugin.load_state_dict(state)
        return plugin

    def trained(plugin: PassesPlugin) -> PassesPlugin:
        plugin.before_training_iteration(strategy)
        product(), product()
        plugin.after_training_iteration(strategy)
        plugin.close()
        return plugin

    broken = begun()
    before_the_first = broken.state_dict()
    broken.close()
    whole = trained(begun())
    assert whole.flops_per_sample == trained(begun(before_the_first)).flops_per_sample == 3 * once / 10
    later = trained(begun(whole.state_dict()))  # the second stands for the first from then on
    assert later.iterations == 2 and later.flops_per_sample == (1 + 2 + 2) * once / 10
