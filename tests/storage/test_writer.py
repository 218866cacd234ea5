"""States that are saved one after the other: what is the same is not hashed again, and nobody waits for the disk."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage import StateWriter, load_state, locks, objects, save_state, saving, state_names, writer
from avalanche_vlm.storage.tensor_files import stamp_of


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(objects, "BIG", 64)
    monkeypatch.setattr(objects, "SHARD", 96)


@pytest.fixture
def hashed(monkeypatch):
    """Layouts of the tensors that are hashed from now on."""
    found: list = []
    real = objects.content_digest
    monkeypatch.setattr(objects, "content_digest", lambda layout, parts: found.append(layout) or real(layout, parts))
    return found


def state(**more) -> dict:
    return {"big": torch.arange(99.0), "turned": torch.arange(60.0).view(6, 10).t(), "small": torch.arange(5.0)} | more


def saved(writer: StateWriter, of: dict, name: str) -> dict:
    """What is read after a state was written."""
    writer.save(of, name=name, kind="test")
    found = load_state(writer.folder, kind="test")
    assert found.name == name and found.remarks == []
    for key, value in of.items():
        assert found.state[key].dtype == value.dtype and torch.equal(found.state[key], value), key
    return found.state


@pytest.mark.parametrize("by_one", [1 << 24, 0])  # one thread, or several
def test_what_is_unchanged_is_neither_hashed_nor_written_again(tmp_path, monkeypatch, by_one, request):
    monkeypatch.setattr(objects, "BY_ONE", by_one)
    monkeypatch.setattr(objects, "cores", lambda: 3)
    writer, first = StateWriter(tmp_path), state()
    saved(writer, first, "a")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "objects").iterdir()}
    hashed = request.getfixturevalue("hashed")
    writer.save(state(), name="b", kind="test")
    assert hashed == [] and {p: p.stat().st_mtime_ns for p in (tmp_path / "objects").iterdir()} == files
    saved(writer, state(new=torch.arange(70.0)), "c")
    assert len(files) + 1 == len(list((tmp_path / "objects").iterdir()))


WRITES = {
    "in place": lambda tensor: tensor.add_(1),
    "through .data": lambda tensor: tensor.data.fill_(7),
    "through numpy": lambda tensor: tensor.numpy().fill(7),
    "the sign of a zero": lambda tensor: tensor.view(-1)[:1].neg_(),
    "the last bit": lambda tensor: tensor.view(torch.int32).view(-1)[-1:].bitwise_xor_(1),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("name", ["big", "small"])
def test_every_write_is_seen(tmp_path, how, name):
    writer, now = StateWriter(tmp_path), state()
    saved(writer, now, "a")
    WRITES[how](now[name])
    found = saved(writer, now, "b")
    assert all(torch.equal(found[key].view(torch.int32), now[key].view(torch.int32)) for key in ("big", "small"))
    again = {key: value.clone() for key, value in now.items()}  # elsewhere in memory, and the same
    saved(writer, again, "c")


def test_another_type_shape_or_order_is_another_tensor(tmp_path):
    writer = StateWriter(tmp_path)
    saved(writer, state(), "a")
    for number, big in enumerate((torch.arange(99.0).view(9, 11), torch.arange(99), torch.arange(99.0)[:50])):
        saved(writer, state(big=big), f"b{number}")
    assert saved(writer, state(turned=torch.arange(60.0).view(10, 6)), "c")["turned"].stride() == (6, 1)


def test_what_two_names_share_comes_to_be_two(tmp_path):
    writer, both = StateWriter(tmp_path), torch.arange(80.0)
    saved(writer, {"weight": both, "teacher": both.clone()}, "a")
    saved(writer, {"weight": both + 1, "teacher": both}, "b")
    saved(writer, {"weight": both + 2, "teacher": both + 2}, "c")
    assert len(list((tmp_path / "objects").iterdir())) == 3  # both + 1, both, and both + 2 once


def test_little_of_a_file_does_not_keep_it(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "BIG", 1 << 10)
    monkeypatch.setattr(objects, "SHARD", 1 << 12)
    writer = StateWriter(tmp_path)
    many = {f"{i}": torch.full((20,), float(i)) for i in range(10)}
    saved(writer, many, "a")
    saved(writer, many | {"0": -torch.ones(20)}, "b")  # nine stay where they are
    sizes = sorted(path.stat().st_size for path in (tmp_path / "objects").iterdir())
    assert len(sizes) == 2 and sizes[0] < 400 < sizes[1]
    for number in range(3):
        many = {name: tensor if name in "01" else tensor + 1 for name, tensor in many.items()}
        saved(writer, many, f"c{number}")
    writer.settle()
    assert sum(path.stat().st_size for path in (tmp_path / "objects").iterdir()) < 2 * 2200


def test_a_file_that_was_damaged_meanwhile_is_written_anew(tmp_path):
    writer = StateWriter(tmp_path)
    saved(writer, state(), "a")
    for path in (tmp_path / "objects").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        objects._SOUND[path.absolute()] = stamp_of(os.stat(path))  # as where the disk itself has damaged it
    saved(writer, state(), "b")


def test_older_states_stay_until_the_disk_has_the_new_one(tmp_path, monkeypatch):
    writer, has = StateWriter(tmp_path), threading.Event()
    for name in "ab":
        saved(writer, state(), name)
    assert writer.settle() and state_names(tmp_path, kind="test") == ["a", "b"]
    monkeypatch.setattr(os, "fsync", lambda handle: has.wait(30) and None)
    saved(writer, state(big=torch.ones(70)), "c")
    assert not writer.settle(wait=False) and not writer.settled
    assert state_names(tmp_path, kind="test") == ["a", "b", "c"]
    has.set()
    assert writer.settle() and writer.settled and state_names(tmp_path, kind="test") == ["b", "c"]


def test_a_state_that_the_disk_does_not_take_is_gone_and_the_ones_before_are_not(tmp_path, monkeypatch):
    writer = StateWriter(tmp_path)
    for name in "ab":
        saved(writer, state(), name)
    assert writer.settle()

    def refuses(handle):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuses)
        writer.save(state(big=torch.ones(70)), name="c", kind="test")
        with pytest.raises(InputError, match=f"cannot write to {tmp_path}.*: Input/output error"):
            writer.settle()
    assert state_names(tmp_path, kind="test") == ["a", "b"]
    saved(writer, state(big=torch.ones(70)), "d")
    assert writer.settle() and state_names(tmp_path, kind="test") == ["b", "d"]


class Disk:
    """What a loss of power would leave: the files that were synchronized. Of a file that the disk has refused once the
    system goes on to show the bytes, and takes them for written.

    :param refuses: which call fails, from 1 on; 0 for none.
    """

    def __init__(self, patch, refuses: int = 0) -> None:
        self.has, self.lost, self.calls, self.refuses = set(), set(), 0, refuses
        patch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle) -> None:
        self.calls += 1
        known = self.known(os.fstat(handle))
        if self.calls == self.refuses:
            self.lost.add(known)
            raise OSError(errno.EIO, "Input/output error")
        self.has |= {known} - self.lost

    def known(self, status) -> tuple:
        return status.st_ino, status.st_mtime_ns

    def without_power(self, folder: Path, to: Path) -> Path:
        shutil.copytree(folder, to)
        for path in to.rglob("*.*"):
            if self.known(os.stat(folder / path.relative_to(to))) not in self.has:
                path.write_bytes(b"")
        return to


def anew() -> None:
    """Has this process know nothing of files, as one that was just started."""
    objects._SOUND.clear(), saving._KNOWN.clear()


def locked(*_) -> None:
    raise InputError("the folder is in use by another process")


@pytest.mark.parametrize("tidies", [True, False])
def test_what_the_disk_has_refused_once_is_no_part_of_a_later_state(tmp_path, monkeypatch, tidies):
    if not tidies:
        monkeypatch.setattr(writer, "remove_older", locked)
    refuses, failed = 0, True
    while failed:
        refuses, failed = refuses + 1, False
        disk, folder = Disk(monkeypatch), tmp_path / f"{refuses}"
        states = StateWriter(folder)
        for name in "ab":
            saved(states, state(), name)
        assert states.settle()
        disk.calls, disk.refuses = 0, refuses
        after = state(big=torch.ones(70), small=torch.ones(3))
        states.save(after, name="c", kind="test")
        try:
            assert states.settle()
        except InputError:
            failed = True
            anew()
            assert load_state(disk.without_power(folder, tmp_path / f"{refuses}-c"), kind="test").name == "b"
        disk.refuses = 0
        for name in "de":
            saved(states, after, name)
            assert states.settle()
        anew()
        found = load_state(disk.without_power(folder, tmp_path / f"{refuses}-e"), kind="test")
        assert found.name == "e" and found.remarks == [] and torch.equal(found.state["small"], torch.ones(3))
    assert refuses > 4


def test_what_a_killed_process_has_not_synchronized_is_so_before_anything_is_removed(tmp_path, monkeypatch):
    disk, after = Disk(monkeypatch), state(big=torch.ones(70))
    with monkeypatch.context() as patch:
        patch.setattr(weakref, "finalize", lambda *_: None)
        killed = StateWriter(tmp_path / "of")
        for name in "ab":
            saved(killed, state(), name)
        assert killed.settle()
        patch.setattr(writer._Behind, "_sync", lambda *_: None)
        killed.save(after, name="c", kind="test")
    anew()
    states = StateWriter(tmp_path / "of")
    for name in "de":
        saved(states, after, name)
        assert states.settle()
        anew()
        assert load_state(disk.without_power(tmp_path / "of", tmp_path / name), kind="test").name == name


def test_what_a_failed_save_has_left_is_synchronized_with_the_next_one(tmp_path, monkeypatch):
    disk, states, after = Disk(monkeypatch), StateWriter(tmp_path / "of"), state(big=torch.ones(70))
    saved(states, state(), "a")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_manifest", full)
        patch.setattr(saving, "_tidy", lambda *_: None)  # as where it is not known what another state refers to
        with pytest.raises(InputError, match="No space left"):
            states.save(after, name="b", kind="test")
    saved(states, after, "c")
    assert states.settle()
    anew()
    assert load_state(disk.without_power(tmp_path / "of", tmp_path / "after"), kind="test").name == "c"


def test_a_file_that_an_older_state_has_as_well_stays_and_is_written_anew(tmp_path, monkeypatch):
    disk, states = Disk(monkeypatch), StateWriter(tmp_path / "of")
    saved(states, state(), "a")
    assert states.settle()
    objects._SOUND.clear()
    for path in (tmp_path / "of" / "objects").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    disk.calls, disk.refuses = 0, 1
    saved(states, state(), "b")  # what was damaged is written again
    with pytest.raises(InputError):
        states.settle()
    assert load_state(tmp_path / "of", kind="test").name == "a"
    saved(states, state(), "c")
    assert states.settle()
    anew()
    assert load_state(disk.without_power(tmp_path / "of", tmp_path / "after"), kind="test").name == "c"


def test_a_folder_that_cannot_be_tidied_costs_no_state(tmp_path, monkeypatch):
    states = StateWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "remove_older", locked)
        for name in "abc":
            saved(states, state(), name)
        assert states.settle() and state_names(tmp_path, kind="test") == ["a", "b", "c"]
    saved(states, state(), "d")
    assert states.settle() and state_names(tmp_path, kind="test") == ["c", "d"]


def test_a_writer_that_is_let_go_says_what_the_disk_did_not_take(tmp_path, monkeypatch):
    states = StateWriter(tmp_path)
    saved(states, state(), "a")
    assert states.settle()
    Disk(monkeypatch, refuses=1)
    states.save(state(big=torch.ones(70)), name="b", kind="test")
    with pytest.warns(VLMWarning, match=f"saved to {tmp_path} is lost: cannot write to .*: Input/output error"):
        del states
    assert state_names(tmp_path, kind="test") == ["a"]


def test_a_disk_that_is_read_only_once_it_has_failed_is_said_as_well(tmp_path, monkeypatch):
    states = StateWriter(tmp_path)
    saved(states, state(), "a")
    assert states.settle()
    Disk(monkeypatch, refuses=1)

    def refuses(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    states.save(state(big=torch.ones(70)), name="b", kind="test")
    monkeypatch.setattr(Path, "unlink", refuses)
    with pytest.raises(InputError, match="Input/output error"):
        states.settle()


def test_a_writer_that_is_let_go_leaves_nothing_undone(tmp_path):
    writer = StateWriter(tmp_path)
    for name in "abc":
        writer.save(state(), name=name, kind="test")
    del writer
    assert state_names(tmp_path, kind="test") == ["b", "c"]
    save_state(tmp_path, state(), name="d", kind="test")
    assert state_names(tmp_path, kind="test") == ["c", "d"]


def test_a_writer_that_is_collected_while_another_writes_waits_for_nobody(tmp_path, monkeypatch):
    """Python may collect it at any allocation, in the thread that has the folder's lock."""
    first, second = StateWriter(tmp_path), StateWriter(tmp_path)
    first.save(state(), name="a", kind="test", keep=1)
    first.save(state(), name="b", kind="test", keep=1)
    real = saving.put

    def collecting(*given):
        nonlocal first
        first = None
        gc.collect()
        return real(*given)

    def sleep(seconds):
        pytest.fail("it waits for the lock of its own thread")

    monkeypatch.setattr(saving, "put", collecting)
    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    second.save(state(), name="c", kind="test", keep=1)
    second.settle()
    assert state_names(tmp_path, kind="test") == ["c"]
