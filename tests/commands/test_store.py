"""Results on disk."""

from __future__ import annotations

import errno
import os

import pytest
from small_runs import read

from avalanche_vlm.commands import store
from avalanche_vlm.errors import InputError


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    store.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*result\.json: No space left on device"):
        store.write_json(path, {"a": 2})
    assert read(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_results_are_never_nan_on_disk(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
