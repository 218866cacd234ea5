"""Runs that are killed at random moments, started again until they end, and compared with one that never was.

    python benchmarks/kills.py --trials 200 --out runs/kills

Every trial is ``avalanche-vlm run`` of one recipe on one kind of stream, with or without worker processes, in a folder
of its own. It is killed with SIGKILL: at a moment drawn from the seconds that the run takes, or, half of the time, in
the write of a checkpoint, before one of the operations that it consists of (a file's bytes are brought to the disk, its
name is changed, an old one is removed). Some are killed again. When a trial has ended, its ``result.json`` must have
the bytes of the uninterrupted run's, and model, plugins and random generators its digests. What was trained twice is
held against the checkpoints' interval. Started again with the same ``--out``, the script keeps the trials there are.

Processes are forked from one that has everything imported, and draw no plots, so that a run takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

STREAMS = {
    "classes": ["--benchmark", "picturebook", "--order", "sketches,night"],
    "pairs": ["--benchmark", "picturebook-pairs", "--order", "night,mosaic"],
}
SIZES = "--n-train 16 --n-test 8 --n-held-out 8 --n-reference 16 --epochs 2 --batch-size 4 --threads 1 --device cpu"
LESS: dict[str, dict[str, Any]] = {
    "gift": {"n": 16},
    "lwf-vr": {"sentences": 16},
    "ewc-clip": {"samples": 8},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 32},
    "ranpac": {"hidden": 32},
    "lada": {"units": 2, "bottleneck": 4},
    "proof": {"exemplars": 3},
}
"""Options with which recipes are quick on few samples."""


PARTS = ("model", "plugins", "python generator", "numpy generator", "torch generator")
"""What the end of a training is compared in, beside its result."""


@dataclass(frozen=True)
class Case:
    """What is run.

    :param recipe: name of the recipe.
    :param kind: kind of the stream, a key of :data:`STREAMS`.
    :param workers: number of processes that load data.
    """

    recipe: str
    kind: str
    workers: int

    def __str__(self) -> str:
        return f"{self.recipe}-{self.kind}-{self.workers}"

    def words(self, out: Path, minutes: float) -> list[str]:
        """The command line.

        :param out: folder of the run.
        :param minutes: minutes from one checkpoint to the next.
        """
        given = [f"{name}={value}" for name, value in LESS.get(self.recipe, {}).items()]
        options = [word for one in given for word in ("--set", one)]
        where = ["--out", str(out), "--workers", str(self.workers), "--checkpoint-minutes", str(minutes)]
        return ["run", "--no-save", "--recipe", self.recipe, *STREAMS[self.kind], *SIZES.split(), *options, *where]


def cases(recipes: list[str] | None = None) -> list[Case]:
    """Every recipe on every kind of stream that it runs on, without and with worker processes.

    :param recipes: names of the recipes; None for all.
    """
    from avalanche_vlm.training import recipes as known

    names = recipes or known.list()
    return [Case(name, kind, workers) for workers in (0, 2) for name in names for kind in known.get(name).kinds]


# In the process that is killed ----------------------------------------------------------------------------------------


def run_here(case: Case, out: Path, minutes: float, at: int | None) -> int:
    """Run a case in this process, and note what it did.

    :param case: what is run.
    :param out: folder of the run.
    :param minutes: minutes from one checkpoint to the next.
    :param at: number of the operation on checkpoints before which the process kills itself, from 1 on; None for none.
    :return: exit code of the command.
    """
    import numpy as np

    from avalanche_vlm import cli
    from avalanche_vlm.commands import jobs
    from avalanche_vlm.commands import run as commands
    from avalanche_vlm.report import plots
    from avalanche_vlm.studies import experiment

    plots.matrices = plots.held_out_curves = commands.save_figure = jobs.save_figure = lambda *_: None
    # What is compared at the end includes these generators, which every process begins with seeds of its own.
    random.seed(0)
    np.random.seed(0)
    operations = _counted_operations(out / "checkpoint", at)
    steps = os.open(out.with_suffix(".steps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(steps, f"begin {time.monotonic()}\n".encode())
    run = experiment.run_experiment

    def watched(*given: Any, progress: Any = None, **options: Any) -> Any:
        def advance(exp: int, iteration: int, iterations: int) -> None:
            os.write(steps, f"{exp} {iteration} {time.monotonic()}\n".encode())

        outcome = run(*given, progress=advance, **options)
        end = {**_digests(outcome.strategy), "operations": next(operations)}
        out.with_suffix(".end").write_text(json.dumps(end))
        return outcome

    experiment.run_experiment = watched
    return cli.main(case.words(out, minutes))


def _counted_operations(folder: Path, at: int | None) -> Iterator[int]:
    """Count what is done to a folder's files from now on, and end the process before one of the operations.

    :param folder: the folder, which need not be there yet.
    :param at: number of the operation, from 1 on; None for none.
    :return: what gives the number so far.
    """
    done = 0

    def counting(function: Callable[..., Any], path: Callable[..., str]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            nonlocal done
            if path(*given).startswith(str(folder)):
                done += 1
                if done == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return counted

    os.fsync = counting(os.fsync, lambda handle: os.readlink(f"/proc/self/fd/{handle}"))
    for name in ("replace", "unlink", "chmod"):
        setattr(os, name, counting(getattr(os, name), lambda path, *_: os.fspath(path)))

    def so_far() -> Iterator[int]:
        while True:
            yield done

    return so_far()


def _digests(strategy: Any) -> dict[str, str]:
    """Digests of everything that a training ends with: model, plugins, random generators."""
    import torch

    from avalanche_vlm.memory.packing import pack
    from avalanche_vlm.studies.account import RunAccount
    from avalanche_vlm.training.checkpoint.contents import trained_plugins
    from avalanche_vlm.training.state import random_states, training_state

    plugins = [plugin for plugin in trained_plugins(strategy) if not isinstance(plugin, RunAccount)]  # it has seconds
    state = training_state(strategy.model, plugins)
    for name, value in random_states().items():
        state |= {f"{name} generator.{key}": entry for key, entry in pack(name, value).items()}
    found: dict[str, Any] = {}
    for name, entry in state.items():
        if (part := name.partition(".")[0]) in PARTS:
            is_tensor = isinstance(entry, torch.Tensor)
            content = entry.cpu().contiguous().numpy().tobytes() if is_tensor else json.dumps(entry).encode()
            found.setdefault(part, hashlib.sha256()).update(name.encode() + b"\0" + content)
    return {part: of.hexdigest() for part, of in found.items()}


# In the process that kills --------------------------------------------------------------------------------------------


def started(case: Case, out: Path, minutes: float, at: int | None = None) -> int:
    """A process that runs a case.

    :param case: what is run.
    :param out: folder of the run; what it says goes into a file beside it.
    :param minutes: minutes from one checkpoint to the next.
    :param at: number of the operation before which it kills itself; None for none.
    :return: number of the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    try:
        said = os.open(out.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = run_here(case, out, minutes, at)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = 99
    os._exit(code)


def ended(process: int, after: float | None = None) -> int | None:
    """Wait for a process, and kill it when its time is up.

    :param process: number of the process.
    :param after: seconds until it is killed; None to let it end.
    :return: its exit code; None if it was killed, or has killed itself.
    """
    limit = time.monotonic() + (600.0 if after is None else after)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if time.monotonic() >= limit:
            os.kill(process, signal.SIGKILL)
            if after is None:
                raise TimeoutError(f"process {process} has not ended in ten minutes")
            limit += 600.0
        time.sleep(0.001)


@dataclass(frozen=True)
class Reference:
    """A run that was never killed.

    :param seconds: seconds that it took.
    :param operations: number of operations on its checkpoints.
    :param end: digests of what it ended with.
    :param result: bytes of its ``result.json``.
    """

    seconds: float
    operations: int
    end: dict[str, str]
    result: bytes


def reference(case: Case, folder: Path, minutes: float) -> Reference:
    """A run without a kill, from its folder if it is there.

    :param case: what is run.
    :param folder: folder of all references.
    :param minutes: minutes from one checkpoint to the next.
    """
    out, noted = folder / str(case), folder / f"{case}.json"
    if not noted.exists():
        _clear(out)
        began = time.monotonic()
        if code := ended(started(case, out, minutes)):
            raise RuntimeError(f"{case} ends with {code}: {out.with_suffix('.said').read_text()}")
        noted.write_text(json.dumps({"seconds": time.monotonic() - began}))
    end = json.loads(out.with_suffix(".end").read_text())
    operations = end.pop("operations")
    return Reference(json.loads(noted.read_text())["seconds"], operations, end, (out / "result.json").read_bytes())


def trial(case: Case, out: Path, minutes: float, seed: str, again: float) -> dict[str, Any]:
    """Kill a run until it has ended, and look at what it came to.

    :param case: what is run.
    :param out: folder of the run, which is emptied.
    :param minutes: minutes from one checkpoint to the next.
    :param seed: seed of the moments.
    :param again: probability of a further kill after each.
    :return: JSON values: the kills, whether all is as without, and what was trained twice.
    """
    whole = reference(case, out.parent / "references", minutes)
    draw = random.Random(seed)
    kills: list[dict[str, Any]] = []
    _clear(out)
    code: int | None = None
    while code is None:
        after = at = None
        if not kills or draw.random() < again:
            if draw.random() < 0.5:
                at = draw.randint(1, max(1, whole.operations))
            else:
                after = draw.uniform(0.0, whole.seconds)
        code = ended(started(case, out, minutes, at), after)
        if code is None:
            kills.append({"in the write, before operation": at} if at else {"after seconds": round(after or 0.0, 3)})
            kills[-1]["at"] = time.monotonic()
        elif not kills and code == 0:  # it was too late
            code = None
            _clear(out)
    end = json.loads(out.with_suffix(".end").read_text()) if code == 0 else {}
    end.pop("operations", None)
    same = {part: end.get(part) == of for part, of in whole.end.items()}
    same["result.json"] = code == 0 and (out / "result.json").read_bytes() == whole.result
    left = sorted(path.name for path in out.rglob("*") if path.name.endswith(".part") or path.name == "checkpoint")
    return {
        **asdict(case),
        "seed": seed,
        "kills": [{key: value for key, value in kill.items() if key != "at"} for kill in kills],
        "code": code,
        "same": same,
        "left behind": left,
        "repeated": repeated(out.with_suffix(".steps").read_text(), [kill["at"] for kill in kills]),
    }


def repeated(steps: str, kills: list[float]) -> list[dict[str, float]]:
    """What every kill cost.

    :param steps: lines of all processes: ``begin`` and the time, then experience, iteration and time of each iteration.
    :param kills: times of the kills, of each process but the last.
    :return: for each kill the iterations that were trained again; the seconds from the end of the last one that was not
        to the kill, as far as they were spent on training; and the longest time from one iteration's end to the next.

    >>> repeated("begin 0\\n0 1 1\\n0 2 2\\n0 3 3\\nbegin 9\\n0 2 10\\n0 3 11", [3.5])
    [{'iterations': 2, 'seconds': 2.5, 'longest': 1.0}]
    """
    attempts: list[list[tuple[int, int, float]]] = []
    for line in steps.splitlines():
        words = line.split()
        if words[0] == "begin":
            attempts.append([])
        else:
            attempts[-1].append((int(words[0]), int(words[1]), float(words[2])))
    found = []
    for i, (attempt, kill) in enumerate(zip(attempts, kills, strict=False)):
        first = next((step[:2] for later in attempts[i + 1 :] for step in later[:1]), (-1, -1))
        lost = [step for step in attempt if step[:2] >= first >= (0, 0)]
        kept = [step for step in attempt if step[:2] < first]
        longest = max((b[2] - a[2] for a, b in pairwise(attempt) if a[0] == b[0]), default=0.0)
        seconds = 0.0
        if lost:
            since = kept[-1][2] if kept and kept[-1][0] == lost[0][0] else lost[0][2]
            # Behind the last iteration of an experience an evaluation follows, which is no training.
            seconds = min(kill, attempt[-1][2] + longest) - since
        found.append({"iterations": len(lost), "seconds": round(seconds, 3), "longest": round(longest, 3)})
    return found


def _clear(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".steps", ".end", ".said"):
        out.with_suffix(suffix).unlink(missing_ok=True)


def preload() -> None:
    """Import what a run needs, so that a forked process has it."""
    import matplotlib

    matplotlib.use("Agg")
    import torch

    torch.set_num_threads(1)

    for name in ("commands.run", "models.tiny", "report.plots", "report.table", "studies.experiment"):
        importlib.import_module(f"avalanche_vlm.{name}")
    for name in ("rich.progress", "rich.style", "rich.table"):  # one of them draws from Python's generator
        importlib.import_module(name)


def summary(trials: list[Mapping[str, Any]], minutes: float) -> str:
    """What all trials came to, in lines.

    :param trials: what :func:`trial` gave of each.
    :param minutes: minutes from one checkpoint to the next.
    """
    kills = [kill for one in trials for kill in one["kills"]]
    writes = sum("after seconds" not in kill for kill in kills)
    costs = [cost for one in trials for cost in one["repeated"]]
    same = sum(one["code"] == 0 and all(one["same"].values()) for one in trials)
    over = [cost for cost in costs if cost["seconds"] > 60 * minutes + 2 * cost["longest"]]
    worst = max(costs, key=lambda cost: cost["seconds"], default={"seconds": 0.0, "iterations": 0, "longest": 0.0})
    longest = max((cost["longest"] for cost in costs), default=0.0)
    return (
        f"{len(trials)} trials of {len({(t['recipe'], t['kind'], t['workers']) for t in trials})} cases, {len(kills)} "
        f"kills, {writes} of them in the write of a checkpoint.\n"
        f"{same} ended with the bytes of the uninterrupted run (result.json, model, plugins, random generators).\n"
        f"Trained twice after a kill: {worst['seconds']:.2f} s at most, with checkpoints {60 * minutes:.2f} s apart "
        f"and iterations of up to {longest:.2f} s; in {len(over)} kills more than the interval and two iterations.\n"
        f"{sum(bool(one['left behind']) for one in trials)} left a file of a write, or a checkpoint, behind."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=0.005, help="between checkpoints (default: 0.005)")
    parser.add_argument("--again", type=float, default=0.4, help="probability of a further kill (default: 0.4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", default="", help="of all, these (default: all)")
    options = parser.parse_args()
    preload()
    chosen = cases(options.recipes.split(",") if options.recipes else None)
    random.Random(options.seed).shuffle(chosen)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "trials.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for number in range(len(found), options.trials):
        case = chosen[number % len(chosen)]
        one = trial(case, options.out / f"trial-{number}", options.minutes, f"{options.seed}-{number}", options.again)
        found.append(one)
        with log.open("a") as file:
            file.write(json.dumps(one) + "\n")
        fine = one["code"] == 0 and all(one["same"].values())
        print(f"{number}: {case}: {len(one['kills'])} kills, {'the same' if fine else one}", flush=True)
        if fine:
            shutil.rmtree(options.out / f"trial-{number}")
    print(summary(found, options.minutes))


if __name__ == "__main__":
    main()
