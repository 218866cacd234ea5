"""Features that are computed once, in memory and on disk."""

from __future__ import annotations

import errno
import gc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.training.teachers import FeatureStore

WIDTH = 3
ROW = 4 * WIDTH
requests = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), min_size=1, max_size=6)


def feature(rows) -> torch.Tensor:
    """``[n, 3]``, another one for every row."""
    rows = torch.as_tensor(rows, dtype=torch.float32)
    return torch.stack([rows, -rows, 1 / (1 + rows)], dim=1)


@given(asked=requests, limit=st.integers(0, 40 * ROW), known=st.integers(0, 10), width=st.sampled_from([0, 1]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_in_any_order_under_any_limit_are_those_of_a_dict(tmp_path, asked, limit, known, width):
    store, computed = FeatureStore(limit, tmp_path), {}
    if known:
        store.append(feature(range(known)).repeat(1, 1 + width))
        computed.update(dict.fromkeys(range(known)))
    for rows in asked:

        def compute(missing, rows=rows):
            new = [rows[i] for i in missing]
            assert new == [row for row in rows if row not in computed]  # nothing twice, nothing forgotten
            computed.update(dict.fromkeys(new))
            return feature(new).repeat(1, 1 + width)

        assert torch.equal(store.rows(torch.tensor(rows), compute), feature(rows).repeat(1, 1 + width))
        order = list(computed)
        everything = store.rows(slice(None), pytest.fail)
        assert len(store) == len(order) and torch.equal(everything, feature(order).repeat(1, 1 + width))
    row = ROW * (1 + width)
    in_ram = min(len(store), limit // row)
    account = store.stored()
    assert account.disk == (len(store) - in_ram) * row
    assert in_ram * row <= account.ram - 8 * (max(computed) + 1) <= limit
    assert len(list(tmp_path.iterdir())) == (account.disk > 0)
    store.clear()
    assert len(store) == 0 and store.stored().total == 0 and not list(tmp_path.iterdir())
    assert torch.equal(store.rows(torch.tensor([5]), lambda m: feature([7])), feature([7]))


@pytest.mark.parametrize("start", [None, 3])
@pytest.mark.parametrize("limit", [0, 2 * ROW, 4 * ROW, 1 << 20])
def test_all_rows_at_once_are_computed_once(limit, start):
    store, calls = FeatureStore(limit), []
    if start:
        store.append(feature(range(10, 10 + start)))
    for _ in range(2):
        found = store.rows(slice(start, None), lambda m: calls.append(m) or feature(range(5)))
        assert torch.equal(found, feature(range(5)))
    assert calls == [slice(start, None)] and len(store) == 5 + (start or 0)


def test_what_is_stored_has_no_gradient_and_is_float32():
    store = FeatureStore()
    weight = torch.ones(WIDTH, requires_grad=True)
    found = store.rows(torch.tensor([0]), lambda m: (feature([2]) * weight).bfloat16())
    assert not found.requires_grad and found.dtype == torch.float32


def test_the_file_is_gone_when_the_store_is(tmp_path):
    store = FeatureStore(0, tmp_path)
    store.append(feature(range(4)))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 4 * ROW == store.stored().disk
    del store
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    where = tmp_path / "nowhere"
    store = FeatureStore(2 * ROW, where)
    store.append(feature(range(2)))  # this much needs no file
    with pytest.raises(InputError, match=f"cannot be written to {where}: No such file or directory"):
        store.append(feature([2]))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        FeatureStore(0, tmp_path / "file").append(feature([2]))
    with pytest.raises(InputError, match="0 bytes or more, not -1"):
        FeatureStore(-1)


@pytest.mark.parametrize("limit", [0, ROW, 3 * ROW])
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path, monkeypatch, limit):
    store = FeatureStore(limit, tmp_path)
    store.append(feature([0, 1]))
    before = store.stored()

    class Full:
        """A file system that takes half a row and no more."""

        def __init__(self, path: Path) -> None:
            self.file = path.open("r+b")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data: bytes) -> None:
            self.file.write(data[: ROW // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    if store._file is None:
        path = tmp_path / "features"
        path.touch()
        monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda **_: Full(path))
    else:
        whole, store._file = store._file, Full(Path(store._file.name))
    with pytest.raises(InputError, match="No space left on device"):
        store.rows(torch.tensor([1, 8, 9]), lambda m: feature([8, 9]))
    if limit < 3 * ROW:
        store._file = whole
        assert store.stored().disk == before.disk
    assert len(store) == 2 and torch.equal(store.rows(torch.tensor([1, 0]), pytest.fail), feature([1, 0]))
    if limit < 3 * ROW:  # there is room again
        assert torch.equal(store.rows(torch.tensor([8, 1, 7]), lambda m: feature([8, 7])), feature([8, 1, 7]))


def test_what_was_taken_ahead_is_given_back():
    store = FeatureStore()
    parts = [torch.randn(5, 4) for _ in range(3)]
    for part in parts:
        store.append(part)
    assert store.stored().ram > 15 * (16 + 8)
    store.trim()
    assert store.stored().ram == 15 * (16 + 8)
    assert torch.equal(store.rows(slice(None)), torch.cat(parts))
