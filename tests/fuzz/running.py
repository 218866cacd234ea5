"""Many inputs for one target in a process of its own: a process that dies or stands still is a finding as well, and the
run goes on behind the input that did it."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from example import target
from trying import FIRST, Finding, keep, numbered, tried, tried_first

STILL = 90.0
"""Seconds after which a process that does not come to its next input is ended."""
ROOM = 6 << 30
"""Bytes that a process may have: an input that asks for more gets a MemoryError, and not the machine."""
_PER_CAUSE = 3
_EVERY = 1.0


@dataclass
class Tally:
    """What a target has come to.

    :param inputs: inputs that were tried.
    :param crashes: inputs that led to a crash.
    :param hangs: inputs that took too long.
    :param peak: MiB of memory that a process had at most, and after its first inputs.
    :param seconds: time that it took, of all processes together.
    :param causes: number of findings by their cause.
    """

    inputs: int = 0
    crashes: int = 0
    hangs: int = 0
    peak: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    causes: dict[str, int] = field(default_factory=dict)


class Place:
    """Where a target's figures and findings are kept, and where it stands.

    :param folder: folder of the run.
    :param name: the target's name.
    :param seed: seed of the inputs.
    """

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.seed = folder, name, seed
        self.findings = folder / "findings" / name
        self._tally = folder / f"{name}-{seed}.json"
        self.at = folder / f"{name}-{seed}.at"

    def read(self) -> Tally:
        """The figures so far."""
        found = Tally(**json.loads(self._tally.read_text())) if self._tally.exists() else Tally()
        found.peak = tuple(found.peak)
        return found

    def write(self, tally: Tally) -> None:
        """Keep the figures.

        :param tally: what is kept.
        """
        temporary = self._tally.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(tally), indent=1))
        temporary.replace(self._tally)

    def add(self, tally: Tally, number: int, finding: Finding) -> None:
        """Count a finding; of each cause the first few are kept.

        :param tally: gets it.
        :param number: number of the input.
        :param finding: what it led to.
        """
        tally.causes[finding.cause] = tally.causes.get(finding.cause, 0) + 1
        tally.crashes += finding.kind == "crash"
        tally.hangs += finding.kind == "hang"
        if tally.causes[finding.cause] <= _PER_CAUSE:
            keep(self.findings, numbered(target(self.name), self.seed, number), finding)


def work(place: Place, inputs: int, until: float) -> None:
    """Try inputs from where the target stands, in this process.

    :param place: where figures and findings go.
    :param inputs: number of the last input, counted from 1.
    :param until: point in time, in seconds since 1970, at which no further one is begun.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (ROOM, ROOM))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.fsync = lambda handle: None  # no input loses its power
    tally, tested, began = place.read(), target(place.name), time.time()
    before, written = tally.seconds, 0.0
    with tempfile.TemporaryDirectory() as folder, place.at.open("wb", buffering=0) as at:
        os.environ["AVALANCHE_VLM_CACHE"] = f"{folder}/cache"
        first, start = tally.inputs, 0.0
        while tally.inputs < inputs and time.time() < until:
            number = tally.inputs
            os.pwrite(at.fileno(), struct.pack("q", number), 0)
            example = numbered(tested, place.seed, number)
            if number < first + FIRST:
                finding = tried_first(tested, example, Path(folder, "input"), STILL)
                start = _peak()
            else:
                finding = tried(tested, example, Path(folder, "input"))
            if finding is not None:
                place.add(tally, number, finding)
            tally.inputs += 1
            tally.peak = max(tally.peak, (_peak(), start))
            tally.seconds = before + time.time() - began
            if time.time() - written > _EVERY or finding is not None:
                place.write(tally)
                written = time.time()
        os.pwrite(at.fileno(), struct.pack("q", -1), 0)
    place.write(tally)


def watched(place: Place, inputs: int, until: float) -> Tally:
    """Try inputs in processes of their own until all are tried or the time is up.

    :param place: where figures and findings go.
    :param inputs: number of inputs in all, those of earlier runs included.
    :param until: point in time, in seconds since 1970, at which no further one is begun.
    :return: the figures, those of earlier runs included.
    """
    while (tally := place.read()).inputs < inputs and time.time() < until:
        place.at.unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).parent), "--work", place.name, str(inputs), str(until)]
        command += ["--seed", str(place.seed), "--out", str(place.folder)]
        child = subprocess.Popen(command)
        first, at, since = tally.inputs, -1, time.time()
        while child.poll() is None:
            time.sleep(0.2)
            if (now := _number(place)) != at:
                at, since = now, time.time()
            if time.time() - since > STILL * (1 if at >= first + FIRST else 10):
                child.kill()
                child.wait()
        at = _number(place)
        if child.returncode == 0:
            continue
        if at < 0:
            raise SystemExit(f"the process of {place.name} has ended with {child.returncode} beside any input")
        tally = place.read()
        stood = time.time() - since > STILL
        cause = "the process stands still" if stood else f"the process ends with {child.returncode}"
        place.add(tally, at, Finding("hang" if stood else "crash", cause, cause))
        tally.inputs = at + 1
        place.write(tally)
    return place.read()


def _number(place: Place) -> int:
    """The input that a process is at; -1 for none."""
    content = place.at.read_bytes() if place.at.exists() else b""
    return struct.unpack("q", content)[0] if len(content) == 8 else -1


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
