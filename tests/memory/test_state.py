"""The state protocol: what is declared goes out and in unchanged, and what does not fit is refused in a sentence."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict, deque
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.state import (
    GIVEN,
    IN_MODEL,
    KEPT,
    RAW,
    WORKING,
    Declared,
    Stateful,
    keeps_raw_data,
    stateful_parts,
    stored_bytes,
    undeclared,
)


class Holder(Stateful):
    """Anything in one attribute."""

    states: ClassVar = {"value": KEPT}

    def __init__(self, value: Any = None) -> None:
        self.value = value


def through_files(state: dict[str, Any]) -> dict[str, Any]:
    """What a state is after its tensors were in safetensors and the rest was in JSON."""
    tensors = {name: value.contiguous().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    return {**load(save(tensors)), **json.loads(json.dumps(values, allow_nan=False))}


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types, at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return (
            list(a) == list(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
            and same_all(a.values(), b.values())
        )
    if isinstance(a, (list, tuple, deque)):
        return getattr(a, "maxlen", None) == getattr(b, "maxlen", None) and same_all(a, b)
    return bool(a == b or (a != a and b != b))


def same_all(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


NUMBERS = st.integers() | st.booleans() | st.none() | st.floats() | st.text(max_size=5)
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16]),
)
ARRAYS = st.builds(
    lambda shape, dtype: np.arange(math.prod(shape)).reshape(shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["f4", "i8", "u1", "?", "u2", "u8", "f2", ">i4", "<U3", [("y", "<i4"), ("tokens", "<u2", (2,))]]),
)
LEAVES = (
    NUMBERS | TENSORS | ARRAYS | st.binary(max_size=4) | st.integers(-9, 9).map(np.int64) | st.floats().map(np.float32)
)
KEYS = st.text(max_size=4) | st.integers() | st.tuples(st.integers(), st.text(max_size=2)) | st.just("$")
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(lambda items, n: deque(items, n), st.lists(inner, max_size=3), st.none() | st.integers(1, 4))
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), TENSORS, max_size=3)
        | st.sets(st.integers() | st.text(max_size=2), max_size=3)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_any_nesting_of_values_goes_out_and_in_through_files(value):
    state = Holder(value).state_dict()
    new = Holder()
    new.load_state_dict(through_files(state))
    assert same(new.value, value)
    again = Holder(value)  # in the place of an equal value as well as in that of None
    again.load_state_dict(state)
    assert same(again.value, value)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_a_state_is_flat_and_deterministic(value):
    state = Holder(value).state_dict()
    assert all(isinstance(name, str) and name.partition(".")[0] == "value" for name in state)
    assert all(isinstance(entry, torch.Tensor) or json.dumps(entry, allow_nan=False) for entry in state.values())
    assert list(Holder(value).state_dict()) == list(state)


def test_what_was_loaded_shares_no_memory_with_the_state():
    old = Holder({"a": torch.zeros(2), "b": [np.zeros(2), {"c": [1]}]})
    state = old.state_dict()
    new = Holder()
    new.load_state_dict(state)
    new.value["a"] += 1
    new.value["b"][0] += 1
    new.value["b"][1]["c"].append(2)
    assert not old.value["a"].any() and not old.value["b"][0].any() and old.value["b"][1] == {"c": [1]}
    plain = Holder([1])
    new = Holder()
    new.load_state_dict(state := plain.state_dict())
    new.value.append(2)
    assert state == {"value": [1]}


def test_generators_go_on_where_they_were():
    ours, numpys = torch.Generator().manual_seed(3), np.random.default_rng(4)
    torch.rand(5, generator=ours), numpys.random(5)
    state = through_files(Holder([ours, numpys]).state_dict())
    expected = torch.rand(3, generator=ours), numpys.random(3)
    theirs = torch.Generator().manual_seed(8)
    for new in (Holder(), Holder([theirs, np.random.default_rng(9)])):
        new.load_state_dict(state)
        assert torch.equal(torch.rand(3, generator=new.value[0]), expected[0])
        assert np.array_equal(new.value[1].random(3), expected[1])
    assert new.value[0] is theirs


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generator_of_numpys_goes_through_files(kind):
    old = np.random.Generator(getattr(np.random, kind)(3))
    old.random(5), old.integers(9, size=3, dtype=np.uint32)
    state = through_files(Holder(old).state_dict())
    expected = old.random(3)
    for new in (Holder(), Holder(np.random.Generator(getattr(np.random, kind)(4)))):
        new.load_state_dict(state)
        assert np.array_equal(new.value.random(3), expected)


class Pair(NamedTuple):
    a: int
    b: Any


def test_what_is_not_state_stays_as_it_was():
    new = Holder(defaultdict(list, x=[1]))
    new.load_state_dict(Holder({3: torch.ones(1)}).state_dict())
    assert type(new.value) is defaultdict and list(new.value) == [3] and new.value["new"] == []
    new = Holder(Pair(1, None))
    new.load_state_dict(Holder(Pair(2, torch.ones(1))).state_dict())
    assert type(new.value) is Pair and new.value.a == 2 and new.value.b.tolist() == [1]
    parameter = nn.Parameter(torch.zeros(2))
    new = Holder([parameter, torch.zeros(2, requires_grad=True)])
    new.load_state_dict(Holder([nn.Parameter(torch.ones(2)), torch.ones(2)]).state_dict())
    assert new.value[0] is parameter and parameter.tolist() == [1, 1] and new.value[1].requires_grad
    new = Holder(nn.Parameter(torch.zeros(0, 2), requires_grad=False))
    new.load_state_dict(Holder(torch.ones(3, 2)).state_dict())
    assert isinstance(new.value, nn.Parameter) and new.value.shape == (3, 2) and not new.value.requires_grad


class Outer(Stateful):
    """Parts of every kind."""

    states: ClassVar = {
        "parts": KEPT,
        "module": KEPT,
        "optimizer": WORKING,
        "loss": KEPT,
        "set": GIVEN,
        "inside": IN_MODEL,
    }

    def __init__(self) -> None:
        self.parts = [Holder(), (Holder(), {"x": Holder()})]
        self.module = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9)
        self.loss = torch.nn.functional.mse_loss
        self.set = object()
        self.inside = nn.Linear(2, 2)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.module(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()


def test_parts_give_and_take_their_own_states():
    old, new = Outer(), Outer()
    old.step()
    old.parts[0].value, old.parts[1][1]["x"].value = 3, torch.ones(2)
    state = through_files(old.state_dict())
    assert state["module.weight"].shape == (1, 2) and state["parts.1.1.0.value"].tolist() == [1, 1]
    assert not any(name.startswith(("set", "inside", "loss")) for name in state)
    parts = new.parts
    new.load_state_dict(state)
    old.step(), new.step()
    assert torch.equal(old.module.weight, new.module.weight)
    assert new.parts[0] is parts[0] and parts[0].value == 3 and parts[1][1]["x"].value.tolist() == [1, 1]


class Growing(Stateful):
    states: ClassVar = {"parts": KEPT}

    def __init__(self) -> None:
        self.parts: list[Holder] = []

    def prepare_load(self, state):
        while len(self.parts) < len(state["parts"]["items"]):
            self.parts.append(Holder())


def test_objects_that_come_into_being_are_made_before_a_state_is_loaded():
    old, new = Growing(), Growing()
    old.parts = [Holder(1), Holder(2)]
    new.load_state_dict(old.state_dict())
    assert [part.value for part in new.parts] == [1, 2]
    with pytest.raises(InputError, match=r"^the state given to Holder has a state of 'value', and there is no object"):
        Holder().load_state_dict(Holder(Holder(1)).state_dict())


@pytest.mark.parametrize(
    ("now", "found", "told"),
    [
        (torch.zeros(2), 3, r"has a number as 'value', not a tensor"),
        (1, True, r"has a truth value as 'value', not a number"),
        (True, 1, r"has a number as 'value', not a truth value"),
        ("a", 1, r"has a number as 'value', not a text"),
        ([], (), r"has a tuple as 'value', not a list"),
        ({}, [], r"has a list as 'value', not a mapping"),
        (torch.zeros(2), np.zeros(2), r"has a array as 'value', not a tensor"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), r"has torch.int64 as 'value', not torch.float32"),
        (torch.zeros(2, 3), torch.zeros(4, 5), r"has the shape \[4, 5\] as 'value', not \[2, 3\]"),
        (torch.zeros(2, 3), torch.zeros(2), r"has the shape \[2\] as 'value', not \[2, 3\]"),
        (np.zeros((2, 3)), np.zeros((4, 5)), r"has the shape \[4, 5\] as 'value', not \[2, 3\]"),
        ({"a": 1, "b": [torch.zeros(2)]}, {"a": 1, "b": [torch.zeros(2).half()]}, r"has torch.float16 as 'value.1.0'"),
        (nn.Linear(2, 2), nn.Linear(2, 3), r"does not fit 'value': .*size mismatch"),
        (nn.Linear(2, 2), 3, r"has a number as 'value', not a Linear"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_a_sentence(now, found, told):
    with pytest.raises(InputError, match=rf"^the state given to Holder {told}") as raised:
        Holder(now).load_state_dict(Holder(found).state_dict())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("now", "found"), [(1, 2.5), (torch.zeros(0), torch.zeros(4, 2)), (torch.zeros(2, 3), torch.zeros(7, 3))]
)
def test_values_may_grow_and_numbers_have_fractions(now, found):
    new = Holder(now)
    new.load_state_dict(Holder(found).state_dict())
    assert same(new.value, found)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({}, "lacks 'value'"),
        ({"value": 1, "other": 2}, "has 'other', which it does not know"),
        ({"value": {"$": "tensor"}}, "has a damaged 'value'"),
        ({"value": {"$": "array", "dtype": "O", "shape": [1]}, "value.values": torch.zeros(8).byte()}, "has a damaged"),
        (
            {"value": {"$": "array", "dtype": "<f4", "shape": [9]}, "value.values": torch.zeros(8).byte()},
            "has a damaged",
        ),
        ({"value": {"$": "spaceship"}}, "has a damaged 'value': nothing is known of 'spaceship'"),
        ({"value": {"$": "numpy generator", "state": {"bit_generator": "load"}}}, "has a damaged 'value': there is no"),
        ({"value": {"$": "dict", "items": [[[1], 2]]}}, "has a damaged 'value': unhashable"),
        ({"value": {"$": "tensors", "names": ["a"]}}, "has a damaged 'value'"),
        ({"value": {"$": "list", "items": 3}}, "has a damaged 'value'"),
    ],
)
def test_a_damaged_state_is_refused_in_a_sentence(state, told):
    with pytest.raises(InputError, match=f"^the state given to Holder {told}"):
        Holder().load_state_dict(state)


@pytest.mark.parametrize("value", [object(), [object()], Holder, {torch.zeros(1): 2}, np.array([object()]), 1j])
def test_what_is_no_state_is_refused_when_it_is_asked_for(value):
    with pytest.raises(TypeError, match=r"value.*is declared as state, but a .* is none"):
        Holder(value).state_dict()


class Base(Stateful):
    states: ClassVar = {"a": KEPT, "b": WORKING}

    def __init__(self) -> None:
        self.a, self.b = torch.zeros(4), torch.zeros(3)


class Derived(Base):
    states: ClassVar = {"b": RAW, "c": Declared(saved=False)}

    def __init__(self) -> None:
        super().__init__()
        self.c = 7


def test_declarations_add_up_and_the_subclass_has_the_last_word():
    assert Derived.declared() == {"a": KEPT, "b": RAW, "c": Declared(saved=False)}
    assert Base().stored() == StoredBytes(ram=16) and Derived().stored() == StoredBytes(ram=28)
    assert list(Derived().state_dict()) == ["a", "b"] and Derived().keeps_raw_data() and not Base().keeps_raw_data()


class Pictures(Stateful):
    """Pictures in a form of the subclass's choice."""

    states: ClassVar = {"kept": RAW}

    def __init__(self, kept: Any) -> None:
        self.kept = kept


class Indirect(Stateful):
    """Declares only the object that has them."""

    states: ClassVar = {"helper": KEPT}

    def __init__(self, kept: Any) -> None:
        self.helper = {"of": [Pictures(kept)]}


PICTURES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("owner", [Pictures, Indirect])
@pytest.mark.parametrize(
    ("full", "empty"),
    [
        (deque(PICTURES, maxlen=4), deque(maxlen=4)),
        (PICTURES.numpy().reshape(-1), np.zeros(0, dtype=np.uint8)),
        ({"a": {0: [PICTURES[0]], 1: [PICTURES[1]]}}, {"a": {0: [], 1: []}}),
        (PICTURES.numpy().tobytes(), b""),
        (list(PICTURES), None),
    ],
    ids=["deque", "flattened", "nested", "bytes", "list"],
)
def test_declared_pictures_count_in_any_form(owner, full, empty):
    kept, none = owner(full), owner(empty)
    assert keeps_raw_data([Base(), kept]) is True and keeps_raw_data([Base(), none]) is False
    assert kept.may_keep_raw_data() and none.may_keep_raw_data() and not Base().may_keep_raw_data()
    assert kept.stored() == StoredBytes(ram=2 * 3 * 8 * 8) and none.stored().total == 0
    new = owner(empty)
    new.load_state_dict(through_files(kept.state_dict()))
    assert new.keeps_raw_data() and new.stored() == kept.stored()


class Silent(Stateful):
    """Declares nothing, and keeps pictures."""

    def __init__(self) -> None:
        self.kept = deque(PICTURES)


class Nothing(Stateful):
    states: ClassVar = {}


class Buffer:
    """A user's, without a state."""


def test_of_what_declares_nothing_nobody_knows():
    assert keeps_raw_data([Nothing(), Base()]) is False and undeclared([Nothing(), Base()]) == []
    assert keeps_raw_data([Silent()]) is None and undeclared([Silent(), Silent(), Buffer()]) == ["Buffer", "Silent"]
    assert keeps_raw_data([Silent(), Pictures(PICTURES)]) is True
    assert keeps_raw_data([Holder(Silent())]) is None
    assert keeps_raw_data([Holder({"a": [Buffer()]})]) is None and undeclared([Holder([Buffer()])]) == ["Buffer"]
    assert keeps_raw_data([Outer()]) is False  # modules, optimizers, functions, and what is given again
    assert keeps_raw_data([]) is False


class Hoarder(Draws):
    """A user's subclass of one of ours, which keeps more than that and does not say so."""

    def __init__(self) -> None:
        super().__init__(0)
        self.kept = deque(PICTURES)


class Careful(Hoarder):
    states: ClassVar = {"kept": RAW}


def test_what_a_class_of_the_package_declares_says_nothing_of_a_users_subclass():
    assert keeps_raw_data([Draws(0)]) is False
    assert keeps_raw_data([Hoarder()]) is None and undeclared([Hoarder()]) == ["Hoarder"]
    assert undeclared([Careful()]) == ["Careful"]  # of what its base has, nobody has told
    assert keeps_raw_data([Careful()]) is True


class Ring(Stateful):
    """Two that know each other."""

    states: ClassVar = {"other": Declared(kept=True, saved=False), "own": RAW}

    def __init__(self) -> None:
        self.other: Ring | None = None
        self.own = torch.zeros(0)


def test_shared_parts_are_counted_once_and_circles_end():
    shared = Holder(torch.zeros(5))
    first, second = Holder([shared, shared]), Holder(shared)
    assert first.stored() == StoredBytes(ram=20) and stored_bytes([first, second, shared]) == StoredBytes(ram=20)
    assert list(stateful_parts([first, second])) == [first, second, shared]
    a, b = Ring(), Ring()
    a.other, b.other = b, a
    assert not a.keeps_raw_data()
    b.own = torch.ones(2)
    assert a.keeps_raw_data() and a.stored() == b.stored() == StoredBytes(ram=8)


def test_bytes_of_every_kind_of_value():
    values = [torch.zeros(3), np.zeros(2), (nn.Linear(2, 1),), {"x": deque([torch.zeros(1)])}, b"abc", 3, "text", None]
    assert Holder(values).stored() == StoredBytes(ram=12 + 16 + 12 + 4 + 3)
    assert Holder(generator := torch.Generator()).stored() == StoredBytes(ram=generator.get_state().nbytes)
    assert Holder(OrderedDict(a=torch.zeros(2))).stored() == StoredBytes(ram=8)
