"""One process at a time: who has a lock is named, and the dead and the forked have none."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage import Lock, locks

HOLD = """
import sys, time
from avalanche_vlm.storage.locks import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_process_that_has_it_is_named_and_a_dead_one_has_it_not(tmp_path, holder):
    day = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    said = (
        f"{re.escape(str(tmp_path))} is in use by process {holder.pid} on {re.escape(socket.gethostname())} "
        f"since {day}: wait until it is done"
    )
    with pytest.raises(InputError, match=f"^{said}$"):
        Lock(tmp_path).acquire()
    with pytest.raises(InputError, match=f"^{said}, or choose another --out$"):
        Lock(tmp_path, otherwise="choose another --out").acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Lock(tmp_path) as lock:
        assert lock.held
    assert (tmp_path / ".lock").is_file() and not lock.held


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    with Lock(tmp_path / "new" / "folder") as lock:
        other = Lock(tmp_path / "new" / "folder")
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
            other.acquire(wait=0.05)
        with pytest.raises(InputError, match="is held already"):
            lock.acquire()
        with Lock(tmp_path), Lock(tmp_path / "new" / "folder", name=".other"):
            pass
    with other:
        assert other.held and not lock.held
    other.release()


@pytest.mark.parametrize("waiting", [False, True])
def test_a_forked_process_does_not_hold_it_on(tmp_path, waiting):
    """Neither of a lock that the parent had when it forked nor of one that it was waiting for."""
    lock, other = Lock(tmp_path), Lock(tmp_path)
    thread = threading.Thread(target=lock.acquire, args=(60,))
    if waiting:
        other.acquire()
    thread.start()
    while lock._handle is None or not (waiting or lock.held):
        time.sleep(0.001)
    (reading, writing), (begun, begin) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # as a loader's worker that outlives a killed parent
        os.close(writing)
        os.write(begin, b"!")
        os.read(reading, 1)
        os._exit(0)
    os.read(begun, 1)
    other.release()
    thread.join()
    os.close(lock._handle)  # what the system does when the parent is killed
    lock._handle = None
    with Lock(tmp_path):
        pass
    for handle in (writing, reading, begun, begin):
        os.close(handle)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff"])
def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path, content):
    with Lock(tmp_path):
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(InputError, match="in use by another process: wait"):
            Lock(tmp_path).acquire()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.warns(VLMWarning, match=f"{tmp_path} cannot be locked: its file system has no locks"), Lock(tmp_path):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(VLMWarning, match="this system has no locks"), Lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/\.lock: Not a directory"):
        Lock(tmp_path / "file").acquire()
