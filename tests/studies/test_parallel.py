"""Works beside each other: what comes of them, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from far_works import Patient

from avalanche_vlm.errors import DataWarning, InputError, Interrupted
from avalanche_vlm.studies.parallel import Ending, Here, Processes, Work
from avalanche_vlm.training.checkpoint.signals import heard

Tell = Any


def double(number: int, tell: Tell) -> int:
    tell(("doubling", number))
    return 2 * number


def fail(error: BaseException, tell: Tell) -> None:
    raise error


def die(number: int, tell: Tell) -> None:
    os.kill(os.getpid(), number)


def leave(tell: Tell) -> None:
    os._exit(7)


def cautious(tell: Tell) -> str:
    warnings.warn("two names are alike", DataWarning, stacklevel=1)
    return "done"


def process(tell: Tell) -> int:
    return os.getpid()


def meet(folder: Path, name: str, other: str, tell: Tell) -> bool:
    """Whether two work at the same time."""
    (folder / name).touch()
    limit = time.monotonic() + 300
    while not (folder / other).exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def endless(file: Path, tell: Tell) -> None:
    listener = Patient(file)
    with heard(listener, patient=True):
        tell(os.getpid())
        while not listener.number:
            time.sleep(0.01)
        time.sleep(0.2)
        file.write_text(str(listener.number))
        raise Interrupted("stopped", listener.number)


def outcomes(engine: Any, *works: Any, hear: Any = lambda *told: None) -> list[Ending]:
    found = list(engine.run([Work(str(i), work) for i, work in enumerate(works)], hear))
    return sorted(found, key=lambda outcome: outcome.index)


ENGINES = pytest.mark.parametrize("engine", [Here(), Processes(2)], ids=["here", "processes"])


@ENGINES
def test_works_return_and_tell_and_fail_each_for_itself(engine):
    told = []
    found = outcomes(
        engine,
        partial(double, 3),
        partial(fail, ValueError("odd\nand more")),
        partial(fail, InputError("row 3 is empty")),
        partial(fail, MemoryError()),
        partial(double, 4),
        hear=lambda *what: told.append(what),
    )
    assert [outcome.value for outcome in found] == [6, None, None, None, 8]
    assert sorted(told) == [(0, ("doubling", 3)), (4, ("doubling", 4))]
    failures = [outcome.failure for outcome in found if outcome.failure]
    assert [failure.sentence for failure in failures] == [
        "ValueError: odd",
        "row 3 is empty",
        "there is not enough memory for it",
    ]
    assert [failure.unusable for failure in failures] == [False, True, False]
    assert "in fail" in failures[0].traceback and "ValueError: odd\nand more" in failures[0].traceback


def test_what_ends_a_process_stops_no_other():
    found = outcomes(Processes(2), partial(die, signal.SIGKILL), partial(double, 1), leave, partial(double, 2))
    assert [outcome.value for outcome in found] == [None, 2, None, 4]
    killed, left = found[0].failure, found[2].failure
    assert killed.sentence == "its process was ended by SIGKILL: the system does so where memory is short"
    assert left.sentence == "its process ended without a word (exit code 7)" and not left.unusable


def test_as_many_work_at_once_as_were_asked_for(tmp_path):
    pair = partial(meet, tmp_path, "a", "b"), partial(meet, tmp_path, "b", "a")
    assert [outcome.value for outcome in outcomes(Processes(2), *pair)] == [True, True]
    told: list[int] = []
    one = outcomes(Processes(1), process, process, hear=lambda *what: told.append(1))
    assert one[0].value != one[1].value and os.getpid() not in {one[0].value, one[1].value}
    with pytest.raises(InputError, match="1 process or more works, not 0"):
        Processes(0)


def test_what_workers_warn_of_is_warned_of_here_once():
    for shown, times in (("always", 2), ("default", 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(shown)
            assert [outcome.value for outcome in outcomes(Processes(1), cautious, cautious)] == ["done", "done"]
        assert [str(warning.message) for warning in caught] == ["two names are alike"] * times
        assert caught[0].category is DataWarning and caught[0].filename == __file__


def test_closing_ends_what_works_when_it_has_written_down_where_it_was(tmp_path):
    engine, told = Processes(2), []
    works = [partial(endless, tmp_path / "a"), partial(double, 2), partial(double, 3)]
    with closing(engine.run([Work("", work) for work in works], lambda *what: told.append(what))) as running:
        assert next(running).value == 4 and next(running).value == 6
    assert (tmp_path / "a").read_text() == str(int(signal.SIGTERM))
    pid = next(what for index, what in told if index == 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_signal_reaches_the_workers_and_they_are_waited_for(tmp_path):
    engine = Processes(1)

    class Command(Patient):
        def request_end(self, number: int) -> None:
            raise Interrupted("told to end", number)

    def hear(index: int, told: Any) -> None:
        engine.request()
        limit = time.monotonic() + 300
        while not (tmp_path / "a.asked").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(told, signal.SIGINT)  # a terminal sends it to all of its processes
        os.kill(os.getpid(), signal.SIGINT)

    with heard(Command(tmp_path / "here")), pytest.raises(Interrupted, match="told to end"):
        outcomes(engine, partial(endless, tmp_path / "a"), partial(double, 1), hear=hear)
    assert (tmp_path / "a").read_text() == str(int(signal.SIGINT))
    assert (tmp_path / "a.asked").read_text() == "1"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")
def test_workers_do_not_outlive_who_asked_for_them(tmp_path):
    code = (
        "import test_parallel as of; from pathlib import Path; from functools import partial; "
        f"folder = Path({str(tmp_path)!r}); "
        "of.outcomes(of.Processes(1), partial(of.endless, folder / 'a'), hear=lambda i, p: of.note(folder / 'pid', p))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    limit = time.monotonic() + 300
    while not (tmp_path / "pid").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    process.kill()
    process.wait()
    worker = Path("/proc", (tmp_path / "pid").read_text())
    while worker.exists() and "Z" not in state(worker) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not worker.exists() or "Z" in state(worker)
    assert not (tmp_path / "a").exists()


def note(file: Path, pid: int) -> None:
    file.with_suffix(".part").write_text(str(pid))
    file.with_suffix(".part").rename(file)


def state(process: Path) -> str:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_engines_load_nothing_heavy():
    code = "import avalanche_vlm.studies.parallel, sys; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
