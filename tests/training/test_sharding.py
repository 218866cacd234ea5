"""Towers of which each process keeps a part: what they end with, what a process holds, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from launched import Launch
from mini import mini, shallow
from processes import together
from sharded_runs import SHARDED, made, stream
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from avalanche_vlm._ranks import found_ranks, tells_of_loss
from avalanche_vlm.artifacts import load
from avalanche_vlm.compat.sharding import in_parts_of, own_part, unwrap_shards, wrap_in_shards
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.checkpoint import resume
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.sharding import ShardedTowers

CLOSE = 1e-5
"""Relative: losses of all steps, and every tensor of the model."""

STEPS = 14
"""Seven batches of four, the last of one, of each of two tasks."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(home) -> dict[str, dict]:
    """How far trainings in parts are from one process, by what they are."""
    first, second = Launch(home / "run", 2, "sharded_runs", str(home)).ended()
    assert (first.code, second.code) == (0, 0), (first.errors, second.errors)
    return {line["what"]: line for line in map(json.loads, first.out.splitlines())}


@pytest.mark.timeout(600)
def test_two_processes_with_half_of_the_towers_each_end_with_what_one_ends_with(found):
    parts = found["in parts"]
    assert parts["steps"] == STEPS
    assert parts["losses"] < CLOSE
    assert parts["weights"] < CLOSE
    assert parts["matrix"]
    assert parts["kinds"] == ["part", "whole"]


@pytest.mark.timeout(600)
def test_a_process_holds_about_half_of_weights_gradients_and_moments(found):
    # Positions, projections and the norms at the ends are in both.
    assert 0.5 < found["in parts"]["held"] < 0.55


@pytest.mark.timeout(600)
def test_behind_a_training_the_model_is_whole_as_if_nothing_had_been(found, home):
    assert found["in parts"]["plain"]
    saved, alone = load(home / "saved", base=shallow()).state_dict(), torch.load(home / "weights.pt")
    for name, tensor in alone.items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["parts from parts", "whole from parts", "parts from one"])
def test_a_training_goes_on_from_the_middle_of_a_task_with_parts_or_without(found, what):
    assert found[what]["steps"] == STEPS  # those before are in the checkpoint
    assert found[what]["losses"] < CLOSE
    assert found[what]["weights"] < CLOSE
    assert found[what]["matrix"]


@pytest.mark.timeout(600)
def test_one_process_goes_on_from_a_checkpoint_of_parts(found, home):
    assert found
    strategy, watch, _ = made(home / "killed")
    told = "processes that train together 2, and now 1; sharding of the towers True, and now False"
    with pytest.warns(VLMWarning, match=told):
        first = resume(strategy, home / "killed")
    for experience in stream().train_stream[first:]:
        strategy.train(experience)
    assert len(watch.losses) == STEPS
    alone, now = torch.load(home / "weights.pt"), strategy.model.state_dict()
    for name, tensor in alone.items():
        torch.testing.assert_close(now[name], tensor, rtol=1e-4, atol=1e-6)


def compared(folder: Path, processes: int, *cases: str) -> list[dict]:
    first, *others = Launch(folder / "run", processes, "ranks_runs", "11", "1", "--shard", *cases).ended(7000)
    assert first.code == 0, first.errors
    assert [other.code for other in others] == [0] * (processes - 1)
    return [json.loads(line) for line in first.out.splitlines()]


def hold(results: list[dict]) -> None:
    for case in results:
        assert case.get("error") is None, case
        assert case["losses"] < CLOSE, case
        assert max(case["weights"], case["moved"]) < CLOSE, case
        assert case["result"], case
        assert case["ledger"], case


@pytest.mark.timeout(600)
def test_three_processes_with_uneven_parts_run_experiments(tmp_path):
    results = compared(tmp_path, 3, "fine-tune/pairs", "zero-shot/classes")
    assert {case["recipe"]: case["steps"] for case in results} == {"fine-tune": 4, "zero-shot": 0}
    hold(results)


@pytest.mark.grid
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_every_recipe_that_says_so_goes_with_it(kind, tmp_path):
    cases = [f"{name}/{kind}" for name in SHARDED if name in recipes.list(kind=kind)]
    results = compared(tmp_path, 2, *cases)
    assert len(results) == len(cases)
    hold(results)


# The way back -------------------------------------------------------------------------------------------------------


def traces(module: nn.Module) -> list:
    return [(type(m), sorted(vars(m)), [k for k, v in vars(m).items() if "hooks" in k and v]) for m in module.modules()]


def there_and_back(rank: int) -> tuple[bool, bool, bool]:
    module = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    kept = module.linear1.register_forward_hook(lambda *args: None)
    before, weights = traces(module), dict(module.named_parameters())
    mesh = DeviceMesh.from_group(torch.distributed.group.WORLD, "cpu")
    with torch.no_grad():
        for _ in range(2):
            wrap_in_shards(module, mesh, {module.norm1.weight})
            module(torch.ones(1, 2, 4))
            spread = {n for n, p in module.named_parameters() if in_parts_of(p)}
            rows = len(own_part(module.linear1.weight))
            unwrap_shards(module)
            for name, weight in weights.items():
                setattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], weight)
    kept.remove()
    return traces(module) == traces_without_hook(before), spread == weights.keys() - {"norm1.weight"}, rows == 4


def traces_without_hook(before: list) -> list:
    return [(kind, names, [h for h in hooks if h != "_forward_hooks"]) for kind, names, hooks in before]


def test_a_module_is_wrapped_and_comes_back_as_it_was_with_hooks_of_others(tmp_path):
    assert together(there_and_back, tmp_path / "meeting") == [(True, True, True)] * 2


# What is left behind --------------------------------------------------------------------------------------------------


def strategy_of(model, plugins=(), metrics=(), **options) -> VLMNaive:
    return VLMNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        shard=True,
        **options,
    )


def lasting(rank: int) -> tuple[bool, bool]:
    strategy = strategy_of(shallow(), train_mb_size=4, eval_mb_size=4)
    optimizer = strategy.optimizer = torch.optim.AdamW(strategy.model.parameters())
    moments = {p: torch.rand_like(p) for p in strategy.model.parameters()}
    optimizer.state.update({p: {"step": torch.tensor(3.0), "exp_avg": of.clone()} for p, of in moments.items()})
    strategy.eval(stream().test_stream[:1])
    there = all(torch.equal(optimizer.state[p]["exp_avg"], of) for p, of in moments.items() if p in optimizer.state)
    return len(optimizer.state) == len(moments), there


def test_an_evaluation_leaves_moments_as_they_are(tmp_path):
    assert together(lasting, tmp_path / "meeting") == [(True, True)] * 2


def moved(rank: int) -> tuple[set[str], set[str]]:
    model = shallow()
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(p)}
    towers = ShardedTowers(model, optimizer, found_ranks(), torch.device("cpu"))
    towers._home = torch.device("meta")  # of devices that differ from the first, all machines have this one
    towers.gather(moments=True)  # nothing is spread
    state = [of for p, of in optimizer.state.items() if p.ndim]
    return {of["exp_avg"].device.type for of in state}, {of["step"].device.type for of in state}


def test_moments_of_what_is_not_spread_go_home_as_the_model_does(tmp_path):
    assert together(moved, tmp_path / "meeting") == [({"meta"}, {"cpu"})] * 2


class Breaks(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """One that goes wrong while the towers are in parts."""

    def before_training_exp(self, strategy, **kwargs) -> None:
        raise ValueError("broken")


def said_by(work: Callable[[], object]) -> str:
    try:
        work()
    except (InputError, ValueError) as error:
        return str(error)
    return "nothing"


def broken(rank: int) -> list[str]:
    model = shallow()
    strategy = strategy_of(model, [Breaks()])
    again, whole = strategy_of(model), strategy_of(model)
    whole.shard = False
    first, test = stream().train_stream[0], stream().test_stream[:1]
    said = [said_by(lambda: strategy.train(first)), said_by(lambda: strategy.train(first))]
    return said + [said_by(lambda made=made: made.eval(test)) for made in (strategy, again, whole)]


def test_after_an_error_whoever_trains_or_evaluates_is_told_that_the_towers_are_in_parts(tmp_path):
    for first, *others in together(broken, tmp_path / "meeting"):
        assert first == "broken"
        assert all(
            said.startswith("the towers are in parts since a training has ended with an error") for said in others
        )


def test_a_process_that_is_alone_has_nobody_to_share_with():
    with pytest.raises(InputError, match="shard spreads the towers over several processes, and this one trains alone"):
        strategy_of(mini()).train(stream().train_stream[0])


def test_errors_of_lost_processes_are_known():
    assert tells_of_loss(RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert tells_of_loss(torch.distributed.DistBackendError("NCCL watchdog"))
    assert not tells_of_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
