"""MATLAB's files: what is damaged is refused before SciPy's reader, which trusts them, can end the process."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.benchmarks.sources.mat_files import read_mat
from avalanche_vlm.errors import InputError

HEAD = 128


def contents() -> dict:
    rows = np.zeros((1, 2), dtype=[("class", "O"), ("fname", "O")])
    rows[0, 0], rows[0, 1] = (1, "00001.jpg"), (2, "00002.jpg")
    names = np.empty((1, 2), dtype=object)
    names[0] = ["AM General Hummer", "Käfer"]
    numbers = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    return {"rows": rows, "names": names, "numbers": numbers, "complex": np.array([1 + 2j]), "yes": np.array([True])}


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def saved(tmp_path, request):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, contents(), do_compression=request.param)
    return path


def test_what_scipy_reads_is_read(saved):
    for name, value in contents().items():
        expected = scipy.io.loadmat(saved, squeeze_me=True)[name]
        found = read_mat(saved, name)
        assert np.array_equal(found, expected) and np.asarray(found).dtype == np.asarray(expected).dtype, (name, value)
    with pytest.raises(InputError, match="has no 'others'"):
        read_mat(saved, "others")


def tried(path, content: bytes, name: str) -> None:
    path.write_bytes(content)
    try:
        read_mat(path, name)
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", ["rows", "names", "numbers"])
def test_no_kind_length_or_side_is_trusted(tmp_path, name):
    """SciPy took a kind of 20 and more for a place beyond its table, which ended the process."""
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {name: contents()[name]})
    whole = path.read_bytes()
    for start in range(HEAD, len(whole), 4):
        for word in (0, 1, 7, 14, 20, 99, 0x7FFFFFFF, 0xFFFFFFFF, 0x00050014, 0x00040009):
            tried(path, whole[:start] + struct.pack("<I", word) + whole[start + 4 :], name)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.mat"
    scipy.io.savemat(path, contents(), do_compression=data.draw(st.booleans()))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    tried(path, bytes(whole[: data.draw(st.integers(0, len(whole)))]), data.draw(st.sampled_from(sorted(contents()))))


def test_other_versions_and_arrays_are_named(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": np.ones(3)}, format="4")
    with pytest.raises(InputError, match="has not the head of version 5"):
        read_mat(path, "a")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(InputError, match=r"of another version than 5 to 7\.2: save it with -v7"):
        read_mat(path, "a")
    scipy.io.savemat(path, {"a": scipy.sparse.eye(3), "b": np.ones(3)})
    with pytest.raises(InputError, match="an array of the class 5"):
        read_mat(path, "a")
    assert read_mat(path, "b").tolist() == [1, 1, 1]  # what stands beside it does not matter
    with pytest.raises(InputError, match=r"there is no file at .*b\.mat"):
        read_mat(tmp_path / "b.mat", "a")


def test_arrays_within_arrays_end(tmp_path):
    path, value = tmp_path / "a.mat", np.ones(1)
    for _ in range(40):
        outer = np.empty(1, dtype=object)
        outer[0] = value
        value = outer
    scipy.io.savemat(path, {"a": value})
    with pytest.raises(InputError, match="more than 32 deep"):
        read_mat(path, "a")


def test_what_a_packed_array_says_of_its_size_takes_no_memory(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": np.ones(3)})
    head = path.read_bytes()[:HEAD]
    many = (
        struct.pack("<II", 6, 8) + struct.pack("<II", 1, 0) + struct.pack("<II", 5, 8) + struct.pack("<ii", 1, 1 << 30)
    )
    many += struct.pack("<I", 0x00010001) + b"a\0\0\0"
    packed = zlib.compress(struct.pack("<II", 14, len(many)) + many)
    path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(InputError, match="an array of 1073741824 others has no room for them"):
        read_mat(path, "a")


@pytest.mark.parametrize("behind", [4, 8, 20])
def test_zeros_behind_the_last_element_are_no_element(saved, behind):
    saved.write_bytes(saved.read_bytes() + bytes(behind))
    assert read_mat(saved, "numbers").shape == (2, 3, 4)


def test_a_packed_list_is_not_copied_for_each_of_its_elements(tmp_path, monkeypatch):
    """A list of Stanford Cars' length has a hundred thousand elements."""
    from avalanche_vlm.benchmarks.sources import mat_files

    rows = np.zeros((1, 3000), dtype=[("class", "O"), ("fname", "O")])
    for number in range(3000):
        rows[0, number] = (number, f"{number:05d}.jpg")
    scipy.io.savemat(tmp_path / "a.mat", {"rows": rows}, do_compression=True)
    pieces = []
    real = mat_files._Inflated._more
    monkeypatch.setattr(mat_files._Inflated, "_more", lambda self: pieces.append(len(self._ready)) or real(self))
    assert read_mat(tmp_path / "a.mat", "rows")["class"][2999] == 2999
    assert len(pieces) < 20
