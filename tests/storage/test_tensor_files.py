"""Safetensors files: those of the reference implementation are read, and it reads ours."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import read_tensors, tensor_files, write_tensors
from avalanche_vlm.storage.layout import DTYPES

TENSORS = {
    "visual.weight": torch.rand(4, 3).t(),
    "bf16": torch.rand(5).to(torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "": torch.tensor(7),
    "ünïcode/..": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
    "double": torch.rand(3, dtype=torch.float64),
    "bytes": torch.arange(7, dtype=torch.uint8),
}


def test_the_reference_implementation_reads_what_is_written(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    write_tensors(path, TENSORS, {"format": "pt"})
    found = load_file(path)
    assert set(found) == set(TENSORS) and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    write_tensors(path, {})
    assert load_file(path) == {} == read_tensors(path)


def test_what_the_reference_implementation_writes_is_read(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "a", {"a": "b"})
    found = read_tensors(tmp_path / "a")
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].is_contiguous() for name in TENSORS)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_has_the_name_that_the_format_gives_it(tmp_path, dtype):
    tensor = torch.arange(8 * dtype.itemsize, dtype=torch.uint8).clamp(max=1).view(dtype)
    save_file({"a": tensor}, tmp_path / "theirs")
    write_tensors(tmp_path / "ours", {"a": tensor})
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes()
    assert read_tensors(tmp_path / "ours")["a"].dtype == dtype


def header(entries, data=b"", length=None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start=0, stop=4, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        header({}, length=1 << 60),
        header(b"[" * 200_000),
        header(b"[]"),
        header(b"\xff\xfe"),
        header({"a": None}),
        header({"a": entry(dtype="F3")}, bytes(4)),
        header({"a": entry(dtype=["F32"])}, bytes(4)),
        header({"a": entry(stop=8)}, bytes(8)),
        header({"a": entry(-4, 0)}, bytes(4)),
        header({"a": entry()}, bytes(3)),
        header({"a": entry()}, bytes(5)),
        header({"a": entry(), "b": entry()}, bytes(4)),
        header({"a": entry(), "b": entry(8, 12)}, bytes(12)),
        header({"a": entry(shape=[-1])}, bytes(4)),
        header({"a": entry(shape=[1.0])}, bytes(4)),
        header({"a": entry(shape=[True])}, bytes(4)),
        header({"a": entry(shape=[1 << 40, 1 << 40], stop=1 << 82)}),
        header({"a": entry(shape=[0, 1 << 70], stop=0)}),
        header({"a": entry(), "__metadata__": {"a": 1}}, bytes(4)),
        header(b'{"a": NaN}'),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)),
    ],
)
def test_what_is_no_such_file_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors is truncated or no safetensors file") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.safetensors is missing"):
        read_tensors(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match=rf"{tmp_path} is no regular file, but a folder"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"__metadata__": torch.zeros(1)}, "cannot be called '__metadata__'"),
        ({"\ud800": torch.zeros(1)}, "cannot be called"),
        ({3: torch.zeros(1)}, "cannot be called 3"),
        ({"a": [1.0]}, "'a' is a list, not a tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, r"'a' is a tensor that no file can hold \(torch\.sparse_coo\)"),
        ({"a": torch.zeros(2, device="meta")}, r"'a' is a tensor that no file can hold \(meta\)"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, r"no file can hold \(torch\.complex128\)"),
    ],
)
def test_what_the_format_does_not_have_is_not_written(tmp_path, tensors, why):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match=why):
        write_tensors(path, {"good": torch.zeros(2), **tensors})
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_more_tensors_than_a_header_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "LONGEST_HEADER", 100)
    with pytest.raises(InputError, match="2 tensors are too many for one safetensors file"):
        write_tensors(tmp_path / "a", {"a": torch.zeros(2), "b": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


NO_JSON = [
    b'{"__metadata__":{"a":"\\ud800"}}',
    b'{"\\udfff":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"b":NaN}}',
    b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"b":1e999}}',
    b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"\\ud800":0}}',
    b'{"a":{"dtype":"F32","shape":[0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"F32","shape":[1],"shape":[0],"data_offsets":[0,0]}}',
]


@pytest.mark.parametrize("header", NO_JSON)
def test_what_is_no_json_in_a_header_is_refused_as_safetensors_does(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"a\.safetensors is truncated or no safetensors file"):
        read_tensors(path)
