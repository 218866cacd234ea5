"""Memories on disk: read back whole, or refused with one sentence."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import stat

import pytest
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.files import load_memory, save_memory


@pytest.fixture
def saved(tmp_path):
    save_memory(tmp_path, "test", {"a": torch.arange(6).view(2, 3), "b": torch.rand(4)}, {"seed": 3})
    return tmp_path


def test_what_was_saved_comes_back(saved):
    tensors, settings = load_memory(saved, "test")
    assert torch.equal(tensors["a"], torch.arange(6).view(2, 3)) and settings == {"seed": 3}
    save_memory(saved, "test", {}, {"seed": 4})
    assert load_memory(saved, "test") == ({}, {"seed": 4})
    assert sorted(p.name for p in saved.iterdir()) == ["memory.json", "memory.safetensors"]


def test_a_process_that_ends_in_a_save_leaves_the_old_memory_or_the_new_one(saved, monkeypatch):
    class Ended(BaseException):
        pass

    real, seen = os.replace, []

    def save(seed: int, left: int) -> int:
        """Save, and end before one of the steps; what is read then."""

        def replace(*given):
            nonlocal left
            left -= 1
            if left == 0:
                raise Ended
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                save_memory(saved, "test", {"a": torch.full((3,), seed)}, {"seed": seed})
            except Ended:
                seen.append(seed)
        tensors, settings = load_memory(saved, "test")
        assert settings["seed"] == 3 or torch.equal(tensors["a"], torch.full((3,), settings["seed"]))
        return settings["seed"]

    assert save(4, 1) == 3 and save(5, 2) == 3  # before the settings are written
    assert save(6, 3) == 6 and save(7, 2) == 6 and save(8, 2) == 6  # after; what was interrupted is ended first
    assert save(9, 9) == 9 and seen == [4, 5, 6, 7, 8]
    assert sorted(p.name for p in saved.iterdir()) == ["memory.json", "memory.safetensors"]


def test_settings_that_cannot_be_written_leave_the_old_memory(saved, monkeypatch):
    from avalanche_vlm.memory import files

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "written", full)
    with pytest.raises(InputError, match=f"cannot write the memory to {saved}: No space left on device"):
        save_memory(saved, "test", {"a": torch.zeros(3)}, {"seed": 4})
    assert load_memory(saved, "test")[1] == {"seed": 3}
    assert sorted(p.name for p in saved.iterdir()) == ["memory.json", "memory.safetensors"]


@pytest.mark.parametrize("call", range(6))  # three files get their names, and the folder is written down each time
def test_a_folder_that_the_disk_does_not_take_leaves_the_old_memory_or_the_new_one(saved, monkeypatch, call):
    real, left = os.fsync, [call]

    def refuses(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, "Input/output error")
        return real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuses)
        for seed in (4, 5):  # a second attempt on the same disk takes nothing either
            with contextlib.suppress(InputError):
                save_memory(saved, "test", {"a": torch.full((3,), seed)}, {"seed": seed})
            tensors, settings = load_memory(saved, "test")
            assert settings["seed"] == 3 or torch.equal(tensors["a"], torch.full((3,), settings["seed"]))
    assert left[0] < 0
    save_memory(saved, "test", {"a": torch.full((3,), 6)}, {"seed": 6})
    assert load_memory(saved, "test")[1] == {"seed": 6}
    assert sorted(p.name for p in saved.iterdir()) == ["memory.json", "memory.safetensors"]


def test_every_changed_or_truncated_byte_is_noticed(saved):
    path = saved / "memory.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"memory\.safetensors or memory\.json .* is truncated or was changed"):
            load_memory(saved, "test")


def test_every_changed_setting_is_noticed(saved):
    path = saved / "memory.json"
    description = json.loads(path.read_text())
    for changed in ({"settings": {"seed": 4}}, {"settings": {}}, {"sha256": "0" * 64}):
        path.write_text(json.dumps({**description, **changed}))
        with pytest.raises(InputError, match=r"memory\.json .* is truncated or was changed"):
            load_memory(saved, "test")
    for damaged in ("[" * 100_000, "\udcff".encode("utf-8", "surrogatepass")):
        path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        with pytest.raises(InputError, match=r"memory\.json is damaged"):
            load_memory(saved, "test")


def test_a_file_of_the_format_before_is_read(saved):
    path = saved / "memory.json"
    description = json.loads(path.read_text())
    content = (saved / "memory.safetensors").read_bytes()
    signed = b'[2, "test", {"seed": 3}]' + b"\0" + content
    path.write_text(json.dumps({**description, "format": 2, "sha256": hashlib.sha256(signed).hexdigest()}))
    assert load_memory(saved, "test")[1] == {"seed": 3}


class Bomb:
    """A pickle that would leave a trace if it were ever read."""

    def __init__(self, trace) -> None:
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_nothing_in_a_file_is_executed(saved):
    trace = saved / "executed"
    content = pickle.dumps(Bomb(trace))
    description = json.loads((saved / "memory.json").read_text())
    signed = json.dumps([description["format"], "test", description["settings"]], sort_keys=True).encode()
    description["sha256"] = hashlib.sha256(signed + b"\0" + content).hexdigest()  # a forger knows the digest too
    (saved / "memory.safetensors").write_bytes(content)
    (saved / "memory.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"memory\.safetensors is truncated or no safetensors file"):
        load_memory(saved, "test")
    (saved / "memory.json").write_bytes(content)
    with pytest.raises(InputError, match=r"memory\.json is damaged"):
        load_memory(saved, "test")
    assert not trace.exists()
    pickle.loads(content).close()
    assert trace.exists()  # otherwise this test would prove nothing


def test_the_wrong_file_is_named(saved, tmp_path):
    with pytest.raises(InputError, match=r"there is no memory in .*nowhere: memory.json is missing"):
        load_memory(tmp_path / "nowhere", "test")
    with pytest.raises(InputError, match="holds a memory of kind 'test', not 'exemplars'"):
        load_memory(saved, "exemplars")
    path = saved / "memory.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "format": 9}))
    with pytest.raises(InputError, match="has format 9; this version reads formats 2 and 3"):
        load_memory(saved, "test")
    for damaged in ("{}", "[]", '{"format": 1', "null"):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"memory\.json is damaged"):
            load_memory(saved, "test")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        save_memory(tmp_path / "file", "test", {}, {})
