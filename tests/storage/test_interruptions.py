"""A write that is interrupted, at every step that it takes: the last good state is there, and nothing is left over."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import StateWriter, load_state, objects, save_state, staged, state_names, write_tensors

STEPS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "chmod")
"""All by which a write changes the disk; ``write`` stands for that of the file object."""


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    """Files of a few bytes, which no test waits for the disk to have."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(objects, "BIG", 64)
    monkeypatch.setattr(objects, "SHARD", 96)


def state(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "frozen": torch.arange(64.0),
        "weight": torch.rand(64, generator=generator),
        "bias": torch.rand(3, generator=generator),
        "step": seed,
    }


def check(folder: Path, seed: int) -> None:
    found = load_state(folder, kind="test")
    assert found.name == f"s{seed}" and found.remarks == []
    wanted = state(seed)
    assert all(torch.equal(found.state[name], wanted[name]) for name in ("frozen", "weight", "bias"))
    assert found.state["step"] == seed


def save(folder: Path, seed: int) -> None:
    save_state(folder, state(seed), name=f"s{seed}", kind="test")


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


class Killed(BaseException):
    """What stands for the end of the process: nothing is caught, and nothing can be done any more."""


class Interruption:
    """Makes the n-th step fail, and with ``for_good`` all after it.

    :param error: what is raised.
    """

    def __init__(self, monkeypatch, at: int, error: BaseException, for_good: bool) -> None:
        self.at, self.error, self.for_good = at, error, for_good
        self.taken: list[str] = []
        for name in STEPS:
            if name != "write":
                monkeypatch.setattr(os, name, self.step(name, getattr(os, name)))
        opened = os.fdopen

        def fdopen(handle, *args):
            file = opened(handle, *args)
            return Watched(file, self.step("write", file.write)) if "w" in "".join(args) else file

        monkeypatch.setattr(os, "fdopen", fdopen)

    def step(self, name, function):
        def watched(*args, **kwargs):
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return function(*args, **kwargs)
            self.taken.append(f"{name} {Path(args[0]).name if isinstance(args[0], (str, Path)) else ''}".strip())
            if len(self.taken) - 1 == self.at or (self.for_good and len(self.taken) - 1 > self.at):
                raise self.error
            return function(*args, **kwargs)

        return watched


class Watched:
    """A file whose writes are steps."""

    def __init__(self, file, write) -> None:
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def steps_of(monkeypatch, do) -> list[str]:
    """The steps of what is done, undisturbed."""
    with monkeypatch.context() as patch:
        watching = Interruption(patch, -1, Killed(), False)
        do()
    return watching.taken


def prepared(folder: Path) -> Path:
    save(folder, 1)
    save(folder, 2)
    return folder


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib keeps functions of os of its own before Python 3.11")
def test_the_description_comes_after_all_that_it_refers_to(tmp_path, monkeypatch):
    folder = prepared(tmp_path / "a")
    taken = [re.sub(r"[0-9a-f]{16,}", "#", step) for step in steps_of(monkeypatch, lambda: save(folder, 3))]
    file = ["open .#.safetensors.#.part", "write", "write", "fsync", "replace .#.safetensors.#.part"]
    assert taken[1:] == [
        "mkdir objects",
        *file,  # the weight
        *file,  # the bias; the frozen tensor is there
        "fsync",  # of the folder of objects
        "open .s3.json.#.part",
        "write",
        "fsync",
        "replace .s3.json.#.part",
        "fsync",
        "unlink s1.json",
        "fsync",
        "unlink #.safetensors",
        "unlink #.safetensors",
    ]
    assert taken[0] == "open .saving.lock"


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, *(pytest.param(code, marks=pytest.mark.slow) for code in (errno.EROFS, errno.EACCES, errno.EIO))],
)
def test_a_disk_that_refuses_leaves_the_last_state_and_nothing_else(tmp_path, monkeypatch, code):
    whole = prepared(tmp_path / "whole")
    many = len(steps_of(monkeypatch, lambda: save(whole, 3)))
    for at in range(many):
        folder = prepared(tmp_path / f"{at}")
        before = sorted(path.name for path in folder.rglob("*"))
        with monkeypatch.context() as patch:
            interruption = Interruption(patch, at, OSError(code, os.strerror(code)), False)
            try:
                save(folder, 3)
            except InputError as error:
                said = str(error)
            else:
                said = ""
        assert not unfinished(folder), interruption.taken
        if said:
            assert str(folder) in said and os.strerror(code) in said and "\n" not in said
        if "s3" in state_names(folder, kind="test"):  # only clearing away failed, or the last fsync
            check(folder, 3)
        else:
            assert said
            check(folder, 2)
            assert sorted(path.name for path in folder.rglob("*")) == before
        save(folder, 4)
        check(folder, 4)
        assert sorted(path.name for path in (folder / "objects").iterdir()) == referred(folder)


def referred(folder: Path) -> list[str]:
    names = set()
    for path in folder.glob("*.json"):
        names |= set(re.findall(r"[0-9a-f]{64}", path.read_text().partition(",")[2]))
    return sorted(path.name for path in (folder / "objects").iterdir() if path.stem in names)


def test_a_process_that_ends_at_any_step_leaves_a_state(tmp_path, monkeypatch):
    whole = prepared(tmp_path / "whole")
    many = len(steps_of(monkeypatch, lambda: save(whole, 3)))
    newest = set()
    for at in range(many):
        folder = prepared(tmp_path / f"{at}")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interruption = Interruption(patch, at, Killed(), True)
            save(folder, 3)
        newest.add(seed := 3 if "s3" in state_names(folder, kind="test") else 2)
        check(folder, seed)
        save(folder, 4)
        check(folder, 4)
        left = sorted(path.name for path in (folder / "objects").iterdir())
        assert not unfinished(folder) and left == referred(folder), interruption.taken
        assert state_names(folder, kind="test") == [f"s{seed}", "s4"]
    assert newest == {2, 3}


@pytest.mark.parametrize("for_good", [False, True])
def test_a_writer_that_is_interrupted_at_any_step_leaves_a_state(tmp_path, monkeypatch, for_good):
    def written(folder: Path) -> StateWriter:
        writer = StateWriter(folder)
        for seed in (1, 2):
            writer.save(state(seed), name=f"s{seed}", kind="test")
        writer.settle()
        return writer

    def go_on(writer: StateWriter) -> None:
        writer.save(state(3), name="s3", kind="test")
        writer.settle()

    monkeypatch.setattr(weakref, "finalize", lambda *_: None)  # a process that was killed does nothing any more
    whole = written(tmp_path / "whole")
    many, newest = len(steps_of(monkeypatch, lambda: go_on(whole))), set()
    for at in range(many):
        writer = written(folder := tmp_path / f"{at}")
        error = Killed() if for_good else OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as patch:
            interruption = Interruption(patch, at, error, for_good)
            try:
                go_on(writer)
            except (InputError, Killed) as refused:
                assert for_good or str(folder) in str(refused)
        newest.add(seed := 3 if "s3" in state_names(folder, kind="test") else 2)
        check(folder, seed)
        assert for_good or not unfinished(folder), interruption.taken
        (StateWriter(folder) if for_good else writer).save(state(4), name="s4", kind="test")
        check(folder, 4)
    assert newest == {2, 3}


@pytest.mark.parametrize("for_good", [False, True])
def test_a_file_of_tensors_is_the_old_or_the_new_one(tmp_path, monkeypatch, for_good):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(2)})
    old = path.read_bytes()
    many = len(steps_of(monkeypatch, lambda: write_tensors(path, {"a": torch.zeros(2)})))
    for at in range(many):
        path.write_bytes(old)
        error = Killed() if for_good else OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as patch, pytest.raises((Killed, InputError)):
            Interruption(patch, at, error, for_good)
            write_tensors(path, {"a": torch.ones(2)})
        assert path.read_bytes() == old or at == many - 1
        if not for_good:
            assert os.listdir(tmp_path) == [path.name]
        write_tensors(path, {"a": torch.ones(2)})
        assert os.listdir(tmp_path) == [path.name]


def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    def make(home):
        with staged(home / "v1") as folder:
            (folder / "a").write_text("a")
            (folder / "deep").mkdir()

    many = len(steps_of(monkeypatch, lambda: make(tmp_path)))
    for at in range(many):
        for_good = bool(at % 2)
        home = tmp_path / f"{at}"
        home.mkdir()
        with monkeypatch.context() as patch, pytest.raises((Killed, InputError)):
            Interruption(patch, at, Killed() if for_good else OSError(errno.ENOSPC, "full"), for_good)
            make(home)
        there = (home / "v1").exists()
        assert not there or sorted(os.listdir(home / "v1")) == ["a", "deep"]
        if not there:
            make(home)
            assert os.listdir(home) == ["v1"]


def in_child(do) -> int:
    """A forked process that does it and ends."""
    child = os.fork()
    if child:
        return child
    try:
        do()
    finally:
        os._exit(1)


def test_a_process_that_is_killed_at_any_moment_leaves_a_state(tmp_path):
    folder = prepared(tmp_path / "a")
    draws = random.Random(0)

    def go_on():
        seed = 3
        while True:
            save(folder, seed)
            seed += 1

    seen = set()
    for number in range(100):
        if number >= 12 and len(seen) > 1:
            break
        child = in_child(go_on)
        time.sleep(draws.uniform(0.0, 0.1 + number / 20))  # longer, where the machine has other work
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load_state(folder, kind="test")
        seen.add(found.name)
        check(folder, int(found.name[1:]))
    save(folder, 2)
    assert not unfinished(folder) and len(seen) > 1
    assert sorted(path.name for path in (folder / "objects").iterdir()) == referred(folder)


def test_a_limit_of_the_system_on_files_leaves_the_last_state(tmp_path):
    folder = prepared(tmp_path / "a")
    before = sorted(path.name for path in folder.rglob("*"))

    def too_large():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save_state(folder, {"a": torch.zeros(10_000)}, name="large", kind="test")
        except InputError as error:
            os._exit(0 if "File too large" in str(error) and str(folder) in str(error) else 2)

    assert os.waitpid(in_child(too_large), 0)[1] == 0
    assert sorted(path.name for path in folder.rglob("*")) == before
    check(folder, 2)


def test_two_processes_that_save_to_one_folder_take_turns(tmp_path):
    def save_some(seed):
        for step in range(5):
            save(tmp_path, seed + step)
        os._exit(0)

    children = [in_child(lambda start=start: save_some(start)) for start in (10, 20)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    check(tmp_path, int(load_state(tmp_path, kind="test").name[1:]))
    assert len(state_names(tmp_path, kind="test")) == 2


def test_a_reader_sees_whole_states_while_another_process_writes(tmp_path):
    prepared(tmp_path)

    def write_on():
        for seed in range(3, 60):
            save(tmp_path, seed)
        os._exit(0)

    child, seen = in_child(write_on), []
    while not os.waitpid(child, os.WNOHANG)[0]:
        found = load_state(tmp_path, kind="test")
        seed = int(found.name[1:])
        assert found.remarks == [] and torch.equal(found.state["weight"], state(seed)["weight"])
        seen.append(seed)
    assert seen == sorted(seen) and len(set(seen)) > 2
