"""A checkpoint that cannot be written ends no training: it is told of once, and the last good one stands."""

from __future__ import annotations

import errno
import gc
import os
import warnings
from pathlib import Path

import pytest
from killed import Training, assert_same

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage import StateWriter, save_state, saving, writer
from avalanche_vlm.storage.writer import _Behind
from avalanche_vlm.training.checkpoint.folder import EXPERIENCE, Position, newest, write


@pytest.fixture(scope="module")
def stream():
    """Two experiences of 48 pictures: three minibatches each."""
    return picturebook.mtil_like(order=["sketches", "night"], n_train=48, n_test=8, n_held_out=8, n_reference=8)


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    return Training(stream, evaluate=False).run(tmp_path_factory.mktemp("whole"))


def full(monkeypatch, *numbers: int) -> None:
    """Has the disk be full while the checkpoints of these numbers are written, from 1 on."""
    real, count = saving.write_manifest, [0]

    def write(*given, **options):
        count[0] += 1
        if count[0] in numbers:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given, **options)

    monkeypatch.setattr(saving, "write_manifest", write)


def trained(training: Training, folder: Path, **killed) -> tuple[dict | None, list[str]]:
    """What a training ends with, and the sentences on checkpoints."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VLMWarning)
        found = training.run(folder, **killed)
    return found, [str(one.message) for one in told if "no checkpoint was written" in str(one.message)]


# Twelve checkpoints: the start, before and after each of three iterations, the end, twice.
@pytest.mark.parametrize(
    ("numbers", "times", "position"),
    [
        ((3, 4), 1, Position(1, "within", 0, 3)),  # two within
        ((6, 7), 1, Position(0, "within", 0, 3)),  # the second experience has nothing to stand on
        ((3, 9), 2, Position(1, "within", 0, 3)),  # told again, since one was written in between
    ],
)
def test_a_training_goes_on_while_the_disk_is_full(stream, whole, tmp_path, monkeypatch, numbers, times, position):
    full(monkeypatch, *numbers)
    training = Training(stream, evaluate=False)
    found, told = trained(training, tmp_path, event="after_training_exp", number=2)
    assert found is None and training.plugin.position == position
    assert len(told) == times and str(tmp_path) in told[0] and os.strerror(errno.ENOSPC) in told[0]
    assert told[0].endswith(f"until that is written a killed one would go on from {BEFORE[numbers]}")
    assert "\n" not in told[0]
    assert_same(whole, Training(stream, evaluate=False).run(tmp_path))


BEFORE = {
    (3, 4): Position(0, "within", 0, 0),
    (6, 7): Position(0, "within", 0, 3),
    (3, 9): Position(0, "within", 0, 0),
}


def test_a_training_that_is_told_to_end_on_a_full_disk_goes_on_from_the_last_good_one(
    stream, whole, tmp_path, monkeypatch
):
    full(monkeypatch, *range(3, 99))
    training = Training(stream, minutes=9, evaluate=False)
    with pytest.raises(BaseException, match=r"stopped as asked: .* goes on from the end of experience 0"):
        trained(training, tmp_path, event="before_forward", number=5, deed=lambda _: training.plugin.request(stop=True))
    monkeypatch.undo()
    assert_same(whole, Training(stream, evaluate=False).run(tmp_path))


def test_a_disk_that_fails_behind_the_training_costs_one_checkpoint(stream, whole, tmp_path, monkeypatch):
    """A file system may say only when it is asked to have all on the disk that it has no room."""
    real, count = os.fsync, [0]

    def refuses(handle):
        count[0] += 1
        if count[0] == 9:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(handle)

    gc.collect()  # what earlier trainings have left to be written is written now, and counts as none of this one's
    monkeypatch.setattr(os, "fsync", refuses)
    found, told = trained(Training(stream, evaluate=False), tmp_path)
    assert_same(whole, found)
    assert len(told) == 1 and os.strerror(errno.EDQUOT) in told[0]


class Disk:
    """Refuses to have the bytes of a checkpoint's description, at the first of the times that it is asked to.

    :param names: which descriptions, each once.
    """

    def __init__(self, patch, *names: str) -> None:
        self.real, self.names = writer.sync_file, list(names)
        patch.setattr(writer, "sync_file", self.sync_file)

    def sync_file(self, path: Path) -> None:
        if path.stem in self.names:
            self.names.remove(path.stem)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        self.real(path)


@pytest.mark.parametrize("refused", ["0000-start", "0001-start"])
def test_nothing_stands_on_a_start_that_the_disk_did_not_take(stream, whole, tmp_path, monkeypatch, refused):
    """That it did not may be known only in the write of a checkpoint that would stand on it."""
    experience = int(refused[:4])
    disk = Disk(monkeypatch, refused)
    monkeypatch.setattr(_Behind, "settle", waiting(_Behind.settle))
    training = Training(stream, evaluate=False)
    found, told = trained(training, tmp_path, event="after_training_epoch", number=experience + 1)
    assert not list(tmp_path.glob(f"{experience:04d}-*"))  # nothing under a name of this experience
    assert found is None and not disk.names and len(told) == 1
    before = "the end of experience 0" if experience else "the start"
    assert "tries the one at the experience's end, and" in told[0] and told[0].endswith(f"would go on from {before}")
    assert_same(whole, Training(stream, evaluate=False).run(tmp_path))


def waiting(settle):
    """Has the writer ask the disk, and find nothing out, until it has to know."""
    return lambda self, wait: settle(self, True) if wait else self.written is None


def test_a_training_whose_first_two_checkpoints_fail_goes_on(stream, whole, tmp_path, monkeypatch):
    full(monkeypatch, 2)
    disk = Disk(monkeypatch, "0000-start")
    monkeypatch.setattr(_Behind, "settle", waiting(_Behind.settle))
    found, told = trained(Training(stream, evaluate=False), tmp_path)
    assert_same(whole, found)
    assert not disk.names and len(told) == 1 and told[0].endswith("would go on from the start")


def test_a_state_within_an_experience_that_is_called_its_start_is_refused(tmp_path):
    position = {"experience": 0, "stage": "within", "epoch": 0, "iteration": 0}
    about = {"position": position, "experiences": [[0, 48]], "evaluates": [], "base": "0" * 16, "written": 1.0}
    about |= {name: {} for name in ("settings", "machine", "loader", "conditions")}
    save_state(tmp_path, {"a": 1}, name="0000-within", kind=EXPERIENCE, about=about)
    with pytest.raises(InputError, match=f"0000-within in {tmp_path} does not tell where it is from"):
        newest(tmp_path)
    with pytest.raises(ValueError, match="iteration 0 has no state that it stands on"):
        write(StateWriter(tmp_path), {}, Position(**position), {})


def test_the_first_checkpoint_has_to_be_written(stream, tmp_path, monkeypatch):
    full(monkeypatch, 1)
    training = Training(stream, evaluate=False)
    with pytest.raises(InputError, match=f"cannot write the state '0000-start' to {tmp_path}"):
        training.run(tmp_path)
    assert "before_training_exp" not in training.killer.heard
