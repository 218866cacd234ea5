"""Modules at rest are what they were, by name, by bits and by gradients, and take one parameter each."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import nn

from avalanche_vlm.models.modules.adapter import Adapter
from avalanche_vlm.models.modules.bank import Bank, named_weights
from avalanche_vlm.models.modules.low_rank import LowRank, SubspaceLowRank


def parts(seed: int) -> nn.Module:
    """A module of several, with parameters of odd sizes among others."""
    torch.manual_seed(seed)
    made = nn.ModuleDict({part: LowRank(torch.zeros(5, 3), rank=2) for part in ("q", "v")})
    made["scaled"] = Adapter(3, bottleneck=2, learned_scale=True)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made.requires_grad_(False)


def both(*names: str) -> tuple[Bank, nn.ModuleDict]:
    """A bank whose modules are all at rest, and what torch has in its place."""
    bank, plain = Bank(), nn.ModuleDict()
    for seed, name in enumerate(names):
        plain[name] = parts(seed)
        bank[name] = copy.deepcopy(plain[name])
        bank.rest(name)
    return bank, plain


def alike(bank: Bank, plain: nn.ModuleDict) -> None:
    """All that torch says of them, the number of parameters left out."""
    assert list(bank) == list(plain) and len(bank) == len(plain)
    found, expected = bank.state_dict(prefix="at."), plain.state_dict(prefix="at.")
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    weights = dict(named_weights(bank))
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.named_parameters())
    assert sum(p.numel() for p in bank.parameters()) == sum(p.numel() for p in plain.parameters())
    for name, module in plain.items():
        given_out = bank[name].state_dict()
        lent = bank.lent(name).state_dict()
        assert given_out.keys() == lent.keys() == module.state_dict().keys()
        assert all(torch.equal(given_out[k], t) and torch.equal(lent[k], t) for k, t in module.state_dict().items())


def test_a_module_at_rest_is_one_parameter_and_says_what_it_said():
    bank, plain = both("a", "b")
    assert [name for name, _ in bank.named_parameters()] == ["a", "b"] and bank.rests("a")
    assert not any(p.requires_grad for p in bank.parameters()) and not list(bank.children())
    alike(bank, plain)
    x = torch.randn(4, 3)
    for name in ("b", "a"):
        assert torch.equal(bank.lent(name)["scaled"](x), plain[name]["scaled"](x))
    bank.wake("a")
    assert next(name for name, _ in bank.named_parameters()) == "b" and not bank.rests("a")
    alike(bank, plain)


def test_what_is_given_out_is_the_callers_own_and_what_is_lent_is_the_last_ones():
    bank, plain = both("a", "b")
    of_a, of_b = bank["a"], bank["b"]
    assert torch.equal(of_a["q"].A, plain["a"]["q"].A) and torch.equal(of_b["q"].A, plain["b"]["q"].A)
    assert bank.lent("a") is bank.lent("b")
    assert torch.equal(bank.lent("b")["q"].A, plain["b"]["q"].A)
    # All of them lie in the same numbers.
    of_a["q"].A.fill_(3.0)
    assert (bank.state_dict()["a.q.A"] == 3).all() and (bank.lent("a")["q"].A == 3).all()
    with pytest.raises(KeyError, match="c"):
        bank["c"]


def test_modules_follow_the_mode_and_the_precision_of_their_bank():
    bank, plain = both("a", "b")
    bank.lent("b")
    for mode in (False, True):
        bank.train(mode)
        assert bank["a"].training is bank.lent("b")["q"].training is mode
    bank.double()
    plain.double()
    assert bank.lent("b")["q"].A.dtype == torch.float64
    alike(bank, plain)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))])
def test_a_copy_has_numbers_of_its_own(copied):
    bank, plain = both("a", "b")
    bank.lent("a")
    twin = copied(bank)
    alike(twin, plain)
    bank["a"]["q"].A.zero_()
    bank.lent("b")
    alike(twin, plain)
    assert torch.equal(twin.lent("a")["q"].A, plain["a"]["q"].A)


def test_a_woken_module_trains_in_the_numbers_that_it_had():
    bank, plain = both("a", "b")
    bank.wake("a")
    for module in (bank["a"], plain["a"]):
        module.requires_grad_(True)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        module["scaled"](torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert not bank.rests("a")
    bank.rest("a")
    assert not bank.rests("a"), "one that trains does not rest"
    for module in (bank["a"], plain["a"]):
        module.requires_grad_(False)
    bank.rest("a")
    assert bank.rests("a")
    alike(bank, plain)


def test_what_trains_has_gradients_by_its_own_names():
    bank, _ = both("a")
    next(bank.parameters()).requires_grad_(True)
    weights = dict(named_weights(bank))
    assert weights["a.q.A"].requires_grad
    weights["a.q.A"].sum().backward()
    assert next(bank.parameters()).grad.sum() == weights["a.q.A"].numel()


def test_modules_of_another_kind_and_with_buffers_do_not_rest():
    bank, _ = both("a")
    bank["other"] = LowRank(torch.zeros(5, 3), rank=2).requires_grad_(False)
    bank["fixed"] = SubspaceLowRank(torch.zeros(5, 3), rank=2).requires_grad_(False)
    bank["empty"] = nn.ModuleDict()
    bank["mixed"] = parts(1)
    bank["mixed"]["q"].double()
    for name in ("other", "fixed", "empty", "mixed"):
        bank.rest(name)
        assert not bank.rests(name)
    assert list(bank) == ["a", "other", "fixed", "empty", "mixed"]


def test_a_module_with_other_settings_does_not_rest():
    bank, x = Bank(), torch.randn(2, 3)
    for name, rank in (("four", 4), ("two", 2), ("again", 4)):
        module = LowRank(torch.zeros(5, 3), rank=rank, alpha=8.0)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        bank[name] = module.requires_grad_(False)
    weight = torch.randn(5, 3)
    expected = {name: module(x, weight) for name, module in bank.items()}
    for name in list(bank):
        bank.rest(name)
    assert [name for name in bank if bank.rests(name)] == ["four", "again"]  # alpha / rank is another with two
    for name in ("again", "two", "four"):
        assert torch.equal(bank.lent(name)(x, weight), expected[name])


def test_what_is_told_to_train_at_rest_trains():
    bank, plain = both("a", "b")
    x, weight = torch.randn(4, 3), torch.randn(5, 3)
    bank.requires_grad_(True), plain.requires_grad_(True)
    for module in (bank.lent("b"), plain["b"]):
        (module["q"](x, weight).square().sum() + module["scaled"](x).sum()).backward()
    numbers = bank.get_parameter("b")
    assert numbers.grad is not None and numbers.grad.shape == numbers.shape
    for (key, part), whole in zip(bank.tensors("b").items(), plain["b"].parameters(), strict=True):
        start = part.storage_offset()
        found = numbers.grad[start : start + part.numel()].view(part.shape)
        torch.testing.assert_close(found, torch.zeros_like(whole) if whole.grad is None else whole.grad, msg=key)
    with torch.no_grad():
        numbers.add_(1.0)
    torch.testing.assert_close(bank.lent("b")["q"](x, weight), bank["b"]["q"](x, weight))


def test_what_was_lent_follows_its_bank_to_another_precision():
    bank, plain = both("a", "b")
    bank.lent("a")
    bank.double(), plain.double()
    x, weight = torch.randn(2, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(bank.lent("a")["q"](x, weight), plain["a"]["q"](x, weight))


def test_a_state_is_loaded_into_modules_that_are_awake():
    bank, plain = both("a", "b")
    other, _ = both("b", "a")
    other.put_in_order(["a", "b"])
    for name in other:
        other.wake(name)
    assert not other.load_state_dict(bank.state_dict()).missing_keys
    alike(other, plain)


class Names(RuleBasedStateMachine):
    """Whatever is done to names, a bank is what torch's dictionary of modules is."""

    def __init__(self) -> None:
        super().__init__()
        self.bank, self.plain, self.drawn = Bank(), nn.ModuleDict(), 0

    names = st.sampled_from(["a", "b", "c", "d"])

    @rule(name=names)
    def put(self, name):
        self.drawn += 1
        self.plain[name] = parts(self.drawn)
        self.bank[name] = copy.deepcopy(self.plain[name])

    @rule(name=names, of=names)
    def share(self, name, of):
        if of in self.plain and name not in self.plain:
            self.plain[name] = self.plain[of]
            self.bank.share(name, of)

    @rule(name=names, how=st.sampled_from(["pop", "rest", "wake"]))
    def change(self, name, how):
        if name in self.plain:
            getattr(self.bank, how)(name)
            if how == "pop":
                self.plain.pop(name)

    @rule(name=names)
    def write(self, name):
        if name in self.plain:
            for of in (self.bank, self.plain):
                for parameter in of[name].parameters():
                    parameter.mul_(2)

    @invariant()
    def same(self):
        alike(self.bank, self.plain)
        first: dict[int, str] = {}
        seconds = {n: first.setdefault(id(m), n) for n, m in self.plain.items()}
        groups = {frozenset(n for n in seconds if seconds[n] == of) for of in seconds.values()}
        found = {n: self.bank.second_names().get(n, n) for n in self.plain}
        assert groups == {frozenset(n for n in found if found[n] == of) for of in found.values()}


TestNames = Names.TestCase
TestNames.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_tensors_that_can_lie_at_multiples_of_64_bytes_do(sizes):
    bank = Bank()
    bank["a"] = nn.ParameterList([torch.randn(n) for n in sizes]).requires_grad_(False)
    bank.rest("a")
    start = next(bank.parameters()).data_ptr()
    found = bank.tensors("a")
    assert [len(t) for t in found.values()] == sizes
    assert all((t.data_ptr() - start) % 64 == 0 for t in found.values() if t.nbytes % 64 == 0)


def test_a_module_at_rest_takes_a_tenth_of_the_objects():
    def objects(bank: Bank) -> int:
        gc.collect()
        before = len(gc.get_objects())
        for seed in range(20):
            bank[f"task_{seed}"] = parts(seed)
            if rests:
                bank.rest(f"task_{seed}")
        gc.collect()
        return len(gc.get_objects()) - before

    rests = True
    objects(Bank())  # what is imported and noted for the first time
    at_rest = objects(Bank())
    rests = False
    assert at_rest < objects(Bank()) / 10
