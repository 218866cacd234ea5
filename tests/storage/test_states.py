"""States on disk: what goes in comes out, nothing is written twice, nothing damaged is taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import load_state, objects, save_state, state_names
from avalanche_vlm.storage.layout import DTYPES


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    """Files of a few bytes show what files of megabytes do, and no test waits for the disk to have them."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
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
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_noticed_and_the_state_before_is_there(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    save(folder, "a", 0)
    save(folder, "b", 1)
    path = folder / data.draw(st.sampled_from(sorted(n for n in files_of(folder) if "lock" not in n)))
    content = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(["changed", "cut", "missing"] if path.suffix != ".json" else ["changed", "cut"]))
    if how == "changed":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.unlink()
    if how != "missing":
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


def forge(path, change) -> None:
    """Change a description and seal it again, as someone would who knows how."""
    content = json.loads(path.read_text())
    content.pop("sha256")
    body = change(content)
    body = (body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode())[1:] + b"\n"
    path.write_bytes(b'{"sha256":"%s",' % hashlib.sha256(body).hexdigest().encode() + body)


def with_entry(**entry):
    def change(content):
        content["state"]["weight"].update(entry)
        return content

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: {**content, "format": 2}, r"has format 2; this version reads format 1"),
        (lambda content: {**content, "kind": "model"}, r"is a state of the kind 'model', not 'test'"),
        (lambda content: {**content, "name": "b"}, r"is the description of another state, 'b'"),
        (lambda content: {**content, "state": []}, r"is damaged"),
        (lambda content: {**content, "serial": None}, r"is damaged"),
        (lambda content: {"format": 1}, r"is damaged"),
        (lambda content: b'{"a":' + b"[" * 100_000, r"is damaged"),
        (lambda content: b'{"format":1,"kind":"test","name":"a","serial":1,"about":{},"state":{"a":{"value":NaN}}}',
         r"is damaged: it has a NaN"),
        (with_entry(tensor="../../outside"), r"is damaged: '\.\./\.\./outside' is not the name of an object"),
        (with_entry(**{"in": "/etc/passwd"}), r"is damaged: '/etc/passwd' is not the name of an object"),
        (with_entry(**{"in": "0" * 64}), r"0{64}\.safetensors is missing"),
        (with_entry(tensor="0" * 64), r"0{64}\.safetensors is missing"),
        (with_entry(dtype="F16"), r"it lacks a tensor that it should have"),
        (with_entry(shape=[7, 5]), r"it lacks a tensor that it should have"),
        (with_entry(shape=[1 << 40, 1 << 40]), r"it has a tensor of a shape that there is not"),
        (with_entry(shape="5"), r"it has a tensor of a shape that there is not"),
        (with_entry(strides=[1 << 40, 1]), r"it has a tensor whose strides do not fit its shape"),
        (with_entry(strides=[-1, 1]), r"it has a tensor of a shape that there is not"),
        (with_entry(dtype="O"), r"it has a tensor of the type 'O', which is not known"),
    ],
)  # fmt: skip
def test_a_forged_description_is_refused_in_a_sentence(tmp_path, change, said):
    path = save(tmp_path, "a")
    torch.save({}, tmp_path.parent / "outside.safetensors")
    forge(path, change)
    for name in ("a", None):
        with pytest.raises(InputError, match=said) as caught:
            load_state(tmp_path, kind="test", name=name)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_states_of_a_later_version_are_left_alone(tmp_path):
    save(tmp_path, "a", 0)
    forge(save(tmp_path, "b", 1), lambda content: {**content, "format": 2, "state": {"new": "ways"}})
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=r"b\.json has format 2"):
        load_state(tmp_path, kind="test")
    with pytest.raises(InputError, match=r"b\.json has format 2"):
        save(tmp_path, "c", 2)
    after = files_of(tmp_path)
    assert (
        all(after[name] == before[name] for name in before if "lock" not in name) and not (tmp_path / "c.json").exists()
    )


def test_kinds_do_not_meet(tmp_path):
    save(tmp_path, "a", 0)
    for seed in range(3):
        save_state(tmp_path, {"n": torch.full((40,), float(seed))}, name=f"model{seed}", kind="model", keep=1)
    assert state_names(tmp_path, kind="test") == ["a"] and state_names(tmp_path, kind="model") == ["model2"]
    assert state_names(tmp_path, kind="other") == []
    with pytest.raises(InputError, match=r"\.json is a state of the kind '(test|model)', not 'other'"):
        load_state(tmp_path, kind="other")
    assert same(load_state(tmp_path, kind="test").state, state(0))
    with pytest.raises(InputError, match=r"a\.json is a state of the kind 'test', not 'model'"):
        load_state(tmp_path, kind="model", name="a")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/a", "a\\b", ".a", "a\n", "ä", "a" * 201, "a\0", 3, None]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be called"):
        save_state(tmp_path, {}, name=name, kind="test")
    if name is not None:
        with pytest.raises(InputError, match="cannot be called"):
            load_state(tmp_path, kind="test", name=name)
    assert not list(tmp_path.iterdir())


def loop() -> list:
    found: list = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: 2}, float("nan"), [float("inf")], {"a": {"b": set()}}, b"", object(), 1 << 5000, loop(), np.float64(1),
     [torch.zeros(1)], torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_state_is_refused_before_anything_is_written(tmp_path, value):
    save(tmp_path, "a")
    before = files_of(tmp_path)
    with pytest.raises(TypeError, match=r"'the value' (cannot be kept|is a tensor that no file can hold)"):
        save_state(tmp_path, {"frozen": torch.rand(99), "the value": value}, name="b", kind="test")
    if not isinstance(value, torch.Tensor):
        with pytest.raises(TypeError, match="'about' cannot be kept"):
            save_state(tmp_path, {}, name="b", kind="test", about={"a": value})
    after = files_of(tmp_path)
    assert all(after[name] == before[name] for name in before if "lock" not in name) and len(after) == len(before)


def test_big_values_and_many_names_come_back(tmp_path):
    big = {"history": list(range(100_000)), "deep": json.loads("[" * 150 + "]" * 150)}
    many = {f"layer.{i}.bias": torch.full((i % 7,), float(i)) for i in range(2000)}
    save_state(tmp_path, big | many, name="a", kind="test")
    found = load_state(tmp_path, kind="test").state
    assert {name: found[name] for name in big} == big and all(torch.equal(found[name], many[name]) for name in many)


def test_what_is_not_there_is_said(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        assert state_names(folder, kind="test") == []
        with pytest.raises(InputError, match=f"there is no state of the kind 'test' in {folder}"):
            load_state(folder, kind="test")
        with pytest.raises(InputError, match=r"a\.json is missing"):
            load_state(folder, kind="test", name="a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for ask in (load_state, state_names):
        with pytest.raises(InputError, match=r"cannot read .*file: Not a directory"):
            ask(tmp_path / "file", kind="test")
    with pytest.raises(InputError, match=r"cannot write .*file.*: Not a directory"):
        save(tmp_path / "file", "a")
    with pytest.raises(InputError, match="the last state or more are kept"):
        save(tmp_path, "a", keep=0)


def test_an_object_that_was_damaged_meanwhile_is_written_anew(tmp_path):
    """A run that goes on from the state before comes to the very contents that are damaged."""
    save(tmp_path, "a", 0)
    save(tmp_path, "b", 1)
    (path,) = (p for p in (tmp_path / "objects").iterdir() if b"[5,7]" in p.read_bytes() and p.stem not in
               (tmp_path / "a.json").read_text())  # fmt: skip
    known = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    found = load_state(tmp_path, kind="test")
    assert found.name == "a" and f"{path} is damaged: a tensor in it was changed: the state 'a'" in found.remarks[0]
    save(tmp_path, "b", 1)
    assert path.read_bytes() == content and load_state(tmp_path, kind="test").name == "b"


def test_a_mapped_tensor_outlives_its_file_and_keeps_what_is_written_to_it_for_itself(tmp_path):
    save(tmp_path, "a", 0)
    found = load_state(tmp_path, kind="test", mapped=True).state
    found["weight"][0] = -1
    assert same(load_state(tmp_path, kind="test").state, state(0))
    for seed in (1, 2):
        save(tmp_path, f"{seed}", seed)
    assert torch.equal(found["weight"][1:], state(0)["weight"][1:]) and torch.equal(found["frozen"], state(0)["frozen"])


@pytest.mark.gpu
def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path):
    tensors = {"a": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), "b": torch.rand(30)}
    save_state(tmp_path, {name: tensor.cuda() for name, tensor in tensors.items()}, name="a", kind="test")
    found = load_state(tmp_path, kind="test").state
    assert same(found, tensors) and found["a"].stride() == tensors["a"].stride()
