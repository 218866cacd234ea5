"""What is kept on disk goes to a checkpoint and back from file to file: memory never holds all of it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.memory import ExemplarMemory, pixels, spooled
from avalanche_vlm.storage import load_state, locks, save_state
from avalanche_vlm.storage.allocation import allocate
from avalanche_vlm.training.teachers import FeatureStore

MB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the system for the memory of this process")


def held() -> int:
    """Bytes of memory of this process that no file stands behind."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pixels, "PIECE", 1 << 16)


def filled(folder, codec="uint8", n=40, **more) -> ExemplarMemory:
    memory = ExemplarMemory(max_samples=n, codec=codec, folder=folder, **more)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        memory.add(
            torch.randint(256, (n, 3, 8, 8), generator=generator).byte(), torch.arange(n) % 5, torch.zeros(n), step=step
        )
    return memory


@pytest.mark.parametrize("codec", ["uint8", "png"])
def test_the_state_of_pictures_on_disk_is_that_of_pictures_in_memory(tmp_path, small_pieces, codec):
    ram, disk = filled(None, codec), filled(tmp_path, codec)
    before = disk.state_dict()
    assert torch.equal(before["pictures"], ram.state_dict()["pictures"])
    saved = before["pictures"].clone()
    for memory in (ram, disk):
        memory.resize(max_samples=7)
    assert torch.equal(before["pictures"], saved)  # a state stays what it was
    assert torch.equal(disk.state_dict()["pictures"], ram.state_dict()["pictures"])
    before["pictures"].zero_()
    assert torch.equal(disk.state_dict()["pictures"], ram.state_dict()["pictures"])


@linux
def test_pictures_go_to_a_checkpoint_and_back_without_being_in_memory(tmp_path, small_pieces):
    n, side = 40, 3 * 512 * 512  # 30 MB
    memory = ExemplarMemory(max_samples=n, folder=tmp_path / "a", policy="reservoir")
    for i in range(n):
        memory.add(torch.full((1, 3, 512, 512), i, dtype=torch.uint8), torch.tensor([i]), torch.zeros(1))
    states, start = tmp_path / "states", held()
    save_state(states, memory.state_dict(), name="a", kind="test")
    written = {path: path.stat().st_mtime_ns for path in (states / "objects").iterdir()}
    save_state(states, memory.state_dict(), name="b", kind="test")  # unchanged, and not written again
    assert {path: path.stat().st_mtime_ns for path in (states / "objects").iterdir()} == written
    found = load_state(states, kind="test", mapped=True).state
    other = ExemplarMemory(max_samples=n, folder=tmp_path / "b", policy="reservoir")
    other.load_state_dict(found)
    other.save(tmp_path / "saved")
    again = ExemplarMemory.load(tmp_path / "saved", keep_in=tmp_path / "c")
    again.resize(max_samples=n - 1)
    assert held() - start < 12 * MB < n * side
    drawn, theirs = memory.sample(9), other.sample(9)
    assert torch.equal(drawn["pixels"], theirs["pixels"]) and torch.equal(drawn["y"], theirs["y"])


@linux
def test_features_go_to_a_checkpoint_and_back_without_being_in_memory(tmp_path):
    store, other = FeatureStore(1 << 10, tmp_path), FeatureStore(1 << 10, tmp_path)
    for _ in range(16):
        store.append(torch.rand(512, 1024))  # 2 MB
    start = held()
    save_state(tmp_path / "states", store.state_dict(), name="a", kind="test")
    other.load_state_dict(load_state(tmp_path / "states", kind="test", mapped=True).state)
    assert held() - start < 12 * MB
    rows = torch.tensor([0, 5, 8191, 77])
    assert torch.equal(store.rows(rows), other.rows(rows))
    for each in (store, other):
        each.append(torch.ones(3, 1024))
    assert torch.equal(store.rows(slice(8000, None)), other.rows(slice(8000, None)))


def test_features_that_do_not_fit_are_refused(tmp_path):
    store = FeatureStore(16, tmp_path)
    store.append(torch.rand(9, 4))
    good = store.state_dict()
    for wrong in (None, good["_far"][1:], good["_far"][:, 1:], good["_far"].reshape(-1), 3):
        with pytest.raises(InputError, match="FeatureStore has other features for its file than it says"):
            FeatureStore(16, tmp_path).load_state_dict({**good, "_far": wrong})


def test_a_spooled_tensor_leaves_no_file_and_needs_none(tmp_path):
    parts = [np.arange(5, dtype=np.uint8), np.zeros(0, dtype=np.uint8), np.arange(3, dtype=np.uint8)]
    tensor = spooled.spooled(iter(parts), tmp_path)
    assert not list(tmp_path.iterdir()) and tensor.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    tensor[0] = 9
    assert tensor.clone().tolist()[0] == 9
    assert spooled.spooled(iter([]), tmp_path).tolist() == []


@pytest.mark.parametrize("codec", ["uint8", "png"])
def test_a_full_disk_is_said_when_a_state_is_taken(tmp_path, monkeypatch, codec):
    memory = filled(tmp_path, codec)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixels, "spooled", full)
    with pytest.raises(InputError, match=r"cannot copy the exemplars in .*: No space left on device"):
        memory.state_dict()


@pytest.mark.parametrize("codec", ["uint8", "png"])
def test_what_a_killed_process_has_left_is_removed_and_what_others_have_is_not(tmp_path, codec):
    living = filled(tmp_path, codec)
    (tmp_path / "exemplars-mine").mkdir()  # none of ours
    child = os.fork()
    if child == 0:
        left = filled(tmp_path, codec)
        os.kill(os.getpid(), signal.SIGKILL if len(left) else signal.SIGTERM)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 3
    other = filled(tmp_path, codec)
    assert len(list(tmp_path.iterdir())) == 3
    assert torch.equal(living.sample(9)["pixels"], other.sample(9)["pixels"])
    del living, other
    assert [path.name for path in tmp_path.iterdir()] == ["exemplars-mine"]


def test_without_locks_nothing_of_others_is_removed(tmp_path, monkeypatch):
    living = filled(tmp_path)
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(VLMWarning, match="cannot be locked"):
        other = filled(tmp_path)
    assert torch.equal(living.sample(9)["pixels"], other.sample(9)["pixels"])


SMALL_DISK = """
import sys
from pathlib import Path

import numpy as np
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.pixels import make_store

store = make_store("uint8", 64, 65536, Path(sys.argv[1]))
pictures = [np.full(65536, 7, dtype=np.uint8)] * 8
kept = np.zeros(0, dtype=np.int64)
try:
    for _ in range(8):
        old, new = store.replace(kept, pictures)
        kept = np.concatenate([old, new])
except InputError as error:
    print(error)
print(len(kept), bool((store.read(kept) == 7).all()))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk is made in a namespace of its own")
def test_a_disk_that_becomes_full_is_told_and_kills_no_process(tmp_path):
    mounted = f'mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c "$1" {tmp_path}'
    made = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if made.returncode:
        pytest.skip("this system lets nobody make a disk")
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", mounted, "sh", SMALL_DISK], capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stderr}"  # -7 is SIGBUS
    sentence, kept = ended.stdout.splitlines()
    assert re.fullmatch(r"cannot keep exemplars in .*: No space left on device", sentence)
    assert kept == "8 True"  # what was kept before is as it was


@pytest.mark.parametrize("refusal", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_bytes_are_the_disks_own_before_they_are_mapped(tmp_path, monkeypatch, refusal):
    if refusal is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:

        def unknown(*_):
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    path = tmp_path / "file"
    path.write_bytes(b"\1" * 4096)
    with path.open("r+b", buffering=0) as file:
        file.truncate(1 << 22)
        allocate(file.fileno(), 4096, (1 << 21) + 3)
        allocate(file.fileno(), 9, 9)
    assert path.stat().st_size == 1 << 22 and path.read_bytes() == b"\1" * 4096 + bytes((1 << 22) - 4096)
    assert path.stat().st_blocks * 512 >= 1 << 21


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_no_room_for_a_picture_is_told_before_it_is_written(tmp_path, monkeypatch, code):
    memory = filled(tmp_path)
    before = memory.sample(9)["pixels"].clone()

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pixels, "allocate", full)
    with pytest.raises(InputError, match=rf"cannot keep exemplars in .*: {os.strerror(code)}"):
        filled(tmp_path)
    assert memory.sample(9)["pixels"].shape == before.shape


@pytest.mark.parametrize("codec", ["uint8", "jpeg"])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, codec):
    before = os.umask(0o027)
    try:
        memory = filled(tmp_path, codec, n=4)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(memory) == 4 and (modes, folders) == ({0o640}, {0o750})


@pytest.mark.parametrize("folder", [None, "exemplars"])
def test_a_budget_beyond_what_there_is_counts_as_what_there_is(tmp_path, folder):
    memory = ExemplarMemory(2**63 - 1, folder=None if folder is None else tmp_path / folder)
    memory.add(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]), torch.zeros(3))
    assert len(memory) == 3


def test_memory_that_the_system_does_not_promise_is_asked_for_by_halves(monkeypatch):
    real, asked = np.empty, []

    def empty(shape, **options):
        asked.append(shape[0])
        if shape[0] > 100:
            raise MemoryError
        return real(shape, **options)

    monkeypatch.setattr(pixels, "memory", lambda: 1000 * 192)
    monkeypatch.setattr(pixels.np, "empty", empty)
    memory = ExemplarMemory(2**40)
    memory.add(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]), torch.zeros(3))
    assert len(memory) == 3 and asked[:5] == [1000, 500, 250, 125, 62]


def test_more_exemplars_than_there_is_room_for_are_a_sentence(monkeypatch):
    monkeypatch.setattr(pixels, "memory", lambda: 1000)
    memory = ExemplarMemory(2**40)
    memory.add(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]), torch.zeros(3))
    with pytest.raises(InputError, match=r"6 exemplars would take 1.1 KiB, more than there is in memory: give"):
        memory.add(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]), torch.zeros(3))
