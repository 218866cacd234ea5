"""States on disk: what goes in comes out, nothing is written twice, nothing damaged is taken for whole."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import load_state, objects, save_state, state_names
from avalanche_vlm.storage.layout import DTYPES


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    """Files of a few bytes show what files of megabytes do."""
    monkeypatch.setattr(objects, "BIG", 64)
    monkeypatch.setattr(objects, "SHARD", 96)


def same(a, b) -> bool:
    """Whether two states are equal: types, bits, memory layouts, order of names."""
    if list(a) != list(b):
        return False
    return all(same_tensor(a[n], b[n]) if isinstance(a[n], torch.Tensor) else same_json(a[n], b[n]) for n in a)


def same_tensor(a, b) -> bool:
    if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return a.numel() == 0 or bits(a).equal(bits(b))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()).view(-1).view(torch.uint8)


def same_json(a, b) -> bool:
    return json.dumps(a) == json.dumps(b) and type(a) is type(b)


def files_of(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def state(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "frozen": torch.arange(64.0).view(8, 8),
        "weight": torch.rand(5, 7, generator=generator),
        "bias": torch.rand(3, generator=generator).to(torch.bfloat16),
        "step": seed,
        "history": [0.1, {"a": None, "b": [True, "x"]}],
    }


def save(folder, name, seed=0, **more):
    return save_state(folder, state(seed), name=name, kind="test", **more)


def random_tensor(draw) -> torch.Tensor:
    dtype = draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = int(torch.Size(shape).numel())
    content = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if dtype == torch.bool:
        content = bytes(byte & 1 for byte in content)
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype)
    tensor = flat.view(shape)
    if draw(st.booleans()):
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if shape and draw(st.booleans()) and dtype.itemsize <= 8:
        tensor = tensor[::2]
    return tensor


tensors = st.composite(random_tensor)()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(state=st.dictionaries(st.text(st.characters()), tensors | values, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_saved_comes_back(tmp_path, state, mapped):
    save_state(tmp_path, state, name="a", kind="test", about={"n": 1})
    found = load_state(tmp_path, kind="test", mapped=mapped)
    assert same(state, found.state) and (found.name, found.about, found.remarks) == ("a", {"n": 1}, [])
    for name, tensor in found.state.items():
        if isinstance(tensor, torch.Tensor) and state[name].is_contiguous():
            assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        (torch.rand(2, 3).t(), (1, 3)),
        (torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), (60, 1, 15, 3)),
        (torch.rand(1, 3, 1, 5).to(memory_format=torch.channels_last), (15, 1, 15, 3)),
        (torch.rand(4, 6)[:, ::2], (3, 1)),
        (torch.rand(6, 4)[:, ::2].t(), (1, 2)),
        (torch.rand(3, 1).expand(3, 4), (4, 1)),
        (torch.rand(3, 4)[1:], (4, 1)),
        (torch.tensor(3.0), ()),
        (torch.rand(4).conj(), (1,)),
        (torch.rand(4, dtype=torch.complex64).conj(), (1,)),
        (torch.nn.Parameter(torch.rand(2, 2)), (2, 1)),
    ],
)
def test_the_order_in_memory_stays(tmp_path, tensor, strides):
    save_state(tmp_path, {"a": tensor}, name="a", kind="test")
    for mapped in (False, True):
        found = load_state(tmp_path, kind="test", mapped=mapped).state["a"]
        assert torch.equal(found, tensor) and found.stride() == strides and not found.requires_grad


def test_equal_contents_are_stored_once_and_come_back_apart(tmp_path):
    big = torch.arange(100.0)
    save_state(tmp_path, {"a": big, "b": big.clone(), "c": big.view(10, 10).t(), "d": big[:2]}, name="a", kind="test")
    assert len(list((tmp_path / "objects").iterdir())) == 3  # a and b, c (of another shape), d
    found = load_state(tmp_path, kind="test").state
    found["a"].zero_()
    assert torch.equal(found["b"], big) and torch.equal(found["c"], big.view(10, 10).t())


def test_what_is_unchanged_is_not_written_again(tmp_path):
    save(tmp_path, "a", 0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "objects").iterdir()}
    save(tmp_path, "b", 1)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "objects").iterdir()}
    frozen = [path for path in before if b"[8,8]" in path.read_bytes()]
    assert len(frozen) == 1 and before.items() <= after.items() and len(after) == 5


@given(steps=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_last_states_stay_and_nothing_else(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("states")
    expected: dict[str, int] = {}
    for name, seed, keep in steps:
        save(folder, name, seed, keep=keep)
        expected.pop(name, None)
        expected[name] = seed
        expected = dict(list(expected.items())[-keep:])
        assert state_names(folder, kind="test") == list(expected)
        for kept, its_seed in expected.items():
            assert same(load_state(folder, kind="test", name=kept).state, state(its_seed))
        assert load_state(folder, kind="test").name == name
    referred = set()
    for name in expected:
        entries = json.loads((folder / f"{name}.json").read_text())["state"].values()
        referred |= {e.get("in", e["tensor"]) for e in entries if "tensor" in e}
    assert {path.stem for path in (folder / "objects").iterdir()} == referred


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_noticed_and_the_state_before_is_there(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    save(folder, "a", 0)
    save(folder, "b", 1)
    path = folder / data.draw(st.sampled_from(sorted(n for n in files_of(folder) if "lock" not in n)))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    for name, seed in (("a", 0), ("b", 1)):
        try:
            found = load_state(folder, kind="test", name=name).state
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert same(found, state(seed))
    try:
        found = load_state(folder, kind="test")
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert same(found.state, state("ab".index(found.name)))
        assert found.name == "b" or any(str(path) in remark for remark in found.remarks)
    save(folder, "b", 1)  # what is damaged is written anew
    assert load_state(folder, kind="test").name == "b"


def test_the_state_before_is_used_with_a_remark(tmp_path):
    save(tmp_path, "a", 0)
    newest = save(tmp_path, "b", 1)
    newest.write_text("{}")
    found = load_state(tmp_path, kind="test")
    assert found.name == "a" and found.remarks == [
        f"{newest} is truncated, was changed, or is not the description of a state: the state 'a' before it is used"
    ]
    (tmp_path / "a.json").write_text("")
    with pytest.raises(InputError, match=r"no state in .* can be read: .*a\.json is .*b\.json is"):
        load_state(tmp_path, kind="test")


class Bomb:
    """A pickle that would leave a trace if it were ever read."""

    def __init__(self, trace) -> None:
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_nothing_is_executed(tmp_path):
    folder, trace = tmp_path / "states", tmp_path / "executed"
    save(folder, "a")
    for name, content in files_of(folder).items():
        if "lock" in name:
            continue
        for bomb in (pickle.dumps(Bomb(trace)), pickle.dumps(Bomb(trace), protocol=0)):
            (folder / name).write_bytes(bomb)
            with pytest.raises(InputError):
                load_state(folder, kind="test")
        torch.save({"a": Bomb(trace)}, folder / name)
        with pytest.raises(InputError):
            load_state(folder, kind="test")
        (folder / name).write_bytes(content)
    assert load_state(folder, kind="test") and not trace.exists()
