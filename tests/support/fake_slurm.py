"""A Slurm of one machine: programs for the front of a path, and what they know.

Elements are the processes that the job script starts, by way of ``srun``: as many at once as the array says, and none
where :meth:`FakeSlurm.fill` has taken the room. What Slurm would do to them (preempt, kill), tests do by
:meth:`FakeSlurm.signal` and by giving :meth:`FakeSlurm.state` another one.
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
export FAKE_MOST=$(sed -n 's/^#SBATCH --array=.*%\\([0-9]*\\)/\\1/p' "$1")
for index in $(seq 0 "${array:-0}"); do
  export SLURM_JOB_ID=$((101 + index)) SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
  export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
  id=101; [ -n "$array" ] && { export SLURM_ARRAY_JOB_ID=101 SLURM_ARRAY_TASK_ID=$index; id=101_$index; }
  export FAKE_ID=$id
  echo PENDING > "$FAKE_SLURM/state-$id"
  setsid bash -c '
    while :; do
      grep -q CANCELLED "$FAKE_SLURM/state-$FAKE_ID" && exit
      [ -d "$FAKE_SLURM" ] || exit
      if [ ! -e "$FAKE_SLURM/full" ]; then
        for place in $(seq "${FAKE_MOST:-1}"); do mkdir "$FAKE_SLURM/place-$place" 2> /dev/null && break 2; done
      fi
      sleep 0.05
    done
    echo RUNNING > "$FAKE_SLURM/state-$FAKE_ID"
    while :; do
      bash "$0"; code=$?
      [ -e "$FAKE_SLURM/requeue-$FAKE_ID" ] || break
      rm "$FAKE_SLURM/requeue-$FAKE_ID"; echo again >> "$FAKE_SLURM/requeued-$FAKE_ID"
    done
    [ $code = 0 ] && state=COMPLETED || state=FAILED
    grep -q CANCELLED "$FAKE_SLURM/state-$FAKE_ID" || echo $state > "$FAKE_SLURM/state-$FAKE_ID"
    rmdir "$FAKE_SLURM/place-$place"
  ' "$1" > /dev/null 2>&1 &
done
[ -e "$FAKE_SLURM/interrupts" ] && kill -INT "$(cat "$FAKE_SLURM/interrupts")"
[ -e "$FAKE_SLURM/mumbles" ] && { echo "it is done"; exit; }
echo Submitted batch job 101
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec setsid --wait bash -c 'echo $$ > "$FAKE_SLURM/pid-$FAKE_ID"; exec "$@"' srun "$@"
""",
    "sacct": """
echo asked >> "$FAKE_SLURM/asked"
echo "JobID|State|NodeList"
for file in "$FAKE_SLURM"/state-*; do echo "${file##*/state-}|$(cat "$file")|here"; done
""",
    "scontrol": """
[ "$1" = requeue ] && touch "$FAKE_SLURM/requeue-$2"
""",
    "scancel": """
echo CANCELLED > "$FAKE_SLURM/state-$1"
[ ! -e "$FAKE_SLURM/pid-$1" ] || kill -KILL -- -"$(cat "$FAKE_SLURM/pid-$1")"
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

    def fill(self) -> None:
        """Have no room for anyone."""
        (self.folder / "full").touch()

    def state(self, element: str, becomes: str | None = None) -> str:
        """The state that an element has.

        :param element: number of its job.
        :param becomes: the one that it gets first; None for none.
        """
        path = self.folder / f"state-{element}"
        if becomes is not None:
            path.write_text(f"{becomes}\n")
        return path.read_text().strip()

    def requeued(self, element: str) -> int:
        """How often an element was handed in again.

        :param element: number of its job.
        """
        path = self.folder / f"requeued-{element}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def end(self) -> None:
        """End what is still there."""
        for path in self.folder.glob("state-*"):
            path.write_text("CANCELLED\n")  # which those wait for that have not begun
        for path in self.folder.glob("pid-*"):
            try:
                os.killpg(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                continue
        time.sleep(0.05)
