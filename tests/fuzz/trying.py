"""One input after another, in this process: what is no answer is a finding, and so is what takes too long."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple
from urllib.parse import quote, unquote

from example import Example, Target

SECONDS = 5.0
"""Of processor time: what takes longer hangs."""
BUSY = 12
"""Times as long by the clock, for what waits and does nothing: other work may keep a process from its processor."""
FIRST = 20
"""Inputs at the beginning of a process of which each may import something: they have more time, and a second try."""


class Hang(BaseException):
    """An input has taken too long. No handler of errors catches it."""


class Finding(NamedTuple):
    """What should not have been.

    :param kind: ``"crash"`` or ``"hang"``.
    :param cause: type of the exception and the place in the package that it came by, the same for the same fault.
    :param told: the traceback.
    """

    kind: str
    cause: str
    told: str


def numbered(target: Target, seed: int, number: int) -> Example:
    """The input of a number.

    :param target: what makes it.
    :param seed: seed of the whole run.
    :param number: number of the input, from 0 on.
    """
    return target.make(Random(f"{target.__name__} {seed} {number}"))


def tried(target: Target, example: Example, folder: Path, seconds: float = SECONDS) -> Finding | None:
    """Try an input; one that hangs is tried again, since the first of a kind may have imports to do.

    :param target: what checks it.
    :param example: the input.
    :param folder: is made if it is not there, and emptied.
    :param seconds: what takes longer hangs.
    :return: the finding; None where all is well.
    """
    found = _tried(target, example, folder, seconds)
    if found is not None and found.kind == "hang":
        found = _tried(target, example, folder, seconds)
    return found


def tried_first(target: Target, example: Example, folder: Path, seconds: float) -> Finding | None:
    """Try an input for which much has to be imported: what is broken off there leaves half a module behind.

    :param target: what checks it.
    :param example: the input.
    :param folder: is made if it is not there, and emptied.
    :param seconds: what takes longer is broken off all the same.
    :return: the finding; None where all is well, with everything imported in no more than :data:`SECONDS`.
    """
    began = time.monotonic()
    found = _tried(target, example, folder, seconds)
    if found is None and time.monotonic() - began > SECONDS:
        return tried(target, example, folder)
    return found


def keep(place: Path, example: Example, finding: Finding) -> Path:
    """Write a finding to disk.

    :param place: folder of a target's findings.
    :param example: the input.
    :param finding: what it led to.
    :return: the file that holds the input; a file beside it tells what became of it.
    """
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{hashlib.sha256(example.content).hexdigest()[:12]}-{quote(example.name, safe=' +')}"
    path.write_bytes(example.content)
    Path(f"{path}.told").write_text(f"{finding.kind}: {finding.cause}\n\n{finding.told}", errors="backslashreplace")
    return path


def kept(path: Path) -> Example:
    """The input of a finding.

    :param path: the file that :func:`keep` wrote.
    """
    return Example(unquote(path.name.partition("-")[2]), path.read_bytes())


def _tried(target: Target, example: Example, folder: Path, seconds: float) -> Finding | None:
    from avalanche_vlm.errors import InputError

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), _no_longer_than(seconds):
            warnings.simplefilter("ignore")
            target.check(example, folder)
    except InputError as error:
        if not str(error).strip() or "\n" in str(error).strip():
            return Finding("crash", f"no plain sentence {_where(error)}", f"{error!r}")
    except KeyboardInterrupt:
        raise
    except Hang as error:
        return Finding("hang", _where(error), traceback.format_exc())
    except BaseException as error:
        return Finding("crash", f"{type(error).__name__} {_where(error)}", traceback.format_exc())
    finally:
        _empty(folder)
    return None


def _empty(folder: Path) -> None:
    """Remove what is in a folder, which stays: to remove a folder takes some file systems milliseconds."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    by_processor, by_clock = time.process_time() + seconds, time.monotonic() + BUSY * seconds

    def stop(number: int, frame: FrameType | None) -> None:
        if time.process_time() >= by_processor or time.monotonic() >= by_clock:
            raise Hang(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: one exception may be lost, where the interpreter cannot let it out.
    signal.setitimer(signal.ITIMER_REAL, min(seconds, 1.0), min(seconds, 1.0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    """The last line of ours that an exception came by."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "avalanche_vlm" in f.filename and "/tests/" not in f.filename] or frames[-1:]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "nowhere"
