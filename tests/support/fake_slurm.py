"""A Slurm of one machine that does what it is told at once: programs for the front of a path, and what they know.

Elements are the processes that the job script starts, by way of ``srun``. What Slurm would do to them (preempt, kill),
tests do by :meth:`FakeSlurm.signal`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

PROGRAMS = {
    "sbatch": """
cp "$1" "$FAKE_SLURM/script"
[ -e "$FAKE_SLURM/refuses" ] && { echo "sbatch: error: invalid partition specified: none" >&2; exit 1; }
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for index in $(seq 0 "${array:-0}"); do
  export SLURM_JOB_ID=$((101 + index)) SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
  export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
  id=101; [ -n "$array" ] && { export SLURM_ARRAY_JOB_ID=101 SLURM_ARRAY_TASK_ID=$index; id=101_$index; }
  export FAKE_ID=$id
  echo RUNNING > "$FAKE_SLURM/state-$id"
  setsid bash -c '
    while :; do
      bash "$0"; code=$?
      [ -e "$FAKE_SLURM/requeue-$FAKE_ID" ] || break
      rm "$FAKE_SLURM/requeue-$FAKE_ID"; echo again >> "$FAKE_SLURM/requeued-$FAKE_ID"
    done
    [ $code = 0 ] && state=COMPLETED || state=FAILED
    grep -q CANCELLED "$FAKE_SLURM/state-$FAKE_ID" || echo $state > "$FAKE_SLURM/state-$FAKE_ID"
  ' "$1" > /dev/null 2>&1 &
done
echo Submitted batch job 101
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec setsid --wait bash -c 'echo $$ > "$FAKE_SLURM/pid-$FAKE_ID"; exec "$@"' srun "$@"
""",
    "sacct": """
echo "JobID|State|NodeList"
for file in "$FAKE_SLURM"/state-*; do echo "${file##*/state-}|$(cat "$file")|here"; done
""",
    "scontrol": """
[ "$1" = requeue ] && touch "$FAKE_SLURM/requeue-$2"
""",
    "scancel": """
echo CANCELLED > "$FAKE_SLURM/state-$1"
kill -KILL -- -"$(cat "$FAKE_SLURM/pid-$1")"
""",
}


class FakeSlurm:
    """The programs, and a folder of what they know.

    :param folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir(parents=True)
        for name, code in PROGRAMS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{code}")
            (programs / name).chmod(0o755)
        paths = [*(path for path in sys.path if path), str(Path(__file__).parent)]
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "FAKE_SLURM": str(folder),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    @property
    def script(self) -> list[str]:
        """The lines of the job script that was handed in."""
        return (self.folder / "script").read_text().splitlines()

    def options(self) -> dict[str, str]:
        """What the script asks for."""
        found = [re.fullmatch(r"#SBATCH --([\w-]+)(?:=(.*))?", line) for line in self.script]
        return {of[1]: of[2] or "" for of in found if of}

    def signal(self, element: str, number: int) -> None:
        """Send a signal to all processes of an element, as Slurm does.

        :param element: number of its job.
        :param number: number of the signal.
        """
        os.killpg(int((self.folder / f"pid-{element}").read_text()), number)

    def requeued(self, element: str) -> int:
        """How often an element was handed in again.

        :param element: number of its job.
        """
        path = self.folder / f"requeued-{element}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def end(self) -> None:
        """End what is still there."""
        for path in self.folder.glob("pid-*"):
            try:
                os.killpg(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                continue
        time.sleep(0.05)
