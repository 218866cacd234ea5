"""Runs that each have a process of their own, a few at a time, and are kept when they are finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def run_all(
    script: str, jobs: Mapping[Path, Sequence[Any]], processes: int, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Call ``script --one JSON`` for every job whose file is not there, and read all of them.

    :param script: prints one line of JSON at the end of its standard output.
    :param jobs: the file that keeps a job's result, and what identifies the job.
    :param processes: at a time; each has one thread.
    :param environment: added to this process's.
    :raises SystemExit: with what the script said, if a job fails; finished jobs are kept.
    """

    def run(path: Path) -> None:
        if path.exists():
            return
        done = subprocess.run(
            [sys.executable, script, "--one", json.dumps(jobs[path])],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{jobs[path]} failed:\n{done.stderr[-2000:]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(done.stdout.splitlines()[-1])
        print(f"{jobs[path]}: done", file=sys.stderr)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, jobs))
    return [json.loads(path.read_text()) for path in jobs]
