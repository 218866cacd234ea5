"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from avalanche_vlm._processors import launched_as
from avalanche_vlm._registry import resolve
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.checks import check
from avalanche_vlm.commands.durable import Command
from avalanche_vlm.commands.launcher import patient, quiet_beside_first, refuse_others, speaks
from avalanche_vlm.commands.loading import load_for, warn_of_crowd
from avalanche_vlm.commands.streams import guarded
from avalanche_vlm.errors import InputError, Interrupted, ProcessLost, VLMWarning
from avalanche_vlm.storage.durable import reason
from avalanche_vlm.units import tell, visible

COMMANDS = {
    "run": "avalanche_vlm.commands.run:run",
    "compare": "avalanche_vlm.commands.run:compare",
    "diagnose": "avalanche_vlm.commands.diagnose:diagnose",
    "advise": "avalanche_vlm.commands.advise:advise",
    "update": "avalanche_vlm.commands.update:update",
    "versions": "avalanche_vlm.commands.versions:versions",
    "rollback": "avalanche_vlm.commands.versions:rollback",
    "diff": "avalanche_vlm.commands.versions:diff",
    "report": "avalanche_vlm.commands.report:report",
    "predict": "avalanche_vlm.commands.predict:predict",
    "retrieve": "avalanche_vlm.commands.retrieve:retrieve",
    "export": "avalanche_vlm.commands.export:export",
    "serve": "avalanche_vlm.commands.serve:serve",
    "list": "avalanche_vlm.commands.listing:listing",
    "doctor": "avalanche_vlm.commands.doctor:doctor",
}
"""The function of every command, imported when it runs: it takes the command's request and gives the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    :param argv: arguments without the program's name; the process's by default.
    :return: exit code: 0, 2 for unusable input, 1 if what was printed could not be written or nobody reads it any more,
        or a process that trains together with this one is gone;
        143 when SIGTERM has ended it, 130 when SIGINT has, 129 when SIGHUP has.
    :raises SystemExit: for an argument of the wrong form, and after help.
    """
    shown = warnings.formatwarning
    warnings.formatwarning = _plainly
    try:
        with guarded() as out:
            try:
                code = _run(argv)
            except SystemExit:
                out.flush()
                if out.failure is None:
                    raise
                code = 1
            out.flush()  # a reader that has gone is noticed here, not at the interpreter's end
            if out.failure is None:
                return code
            if not isinstance(out.failure, BrokenPipeError):  # as with ``avalanche-vlm list recipes | head``
                tell(f"avalanche-vlm: standard output cannot be written: {reason(out.failure)}", errors=True)
            return code or 1
    finally:
        warnings.formatwarning = shown


def _run(argv: Sequence[str] | None) -> int:
    """The exit code of a command, after what it has to say."""
    out = None
    try:
        with quiet_beside_first():
            command, request = parse(argv)
        refuse_others(command)
        out, threads = (getattr(request, name, None) for name in ("out", "threads"))
        with patient() if launched_as() else Command(out).interruptible():
            check(request)
            warn_of_crowd(request)
            load_for(command, request)
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            return int(resolve(COMMANDS[command])(request))
    except (InputError, ProcessLost) as error:
        if speaks():
            tell(f"avalanche-vlm: {error}", errors=True)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.filename is None:
            raise  # it is about nothing of the user's
        tell(f"avalanche-vlm: {os.fsdecode(error.filename)}: {reason(error)}", errors=True)
        return 2
    except Interrupted as stopped:
        tell(f"avalanche-vlm: {stopped}", errors=True)
        return stopped.exit_code
    except KeyboardInterrupt:
        kept = f"; what is finished is kept in {out}" if out else ""
        tell(f"avalanche-vlm: interrupted{kept}", errors=True)
        return 130


def _plainly(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> str:
    """A warning of ours as one sentence; all others as Python shows them."""
    if issubclass(category, VLMWarning):
        return visible(f"avalanche-vlm: {message}\n")
    return _as_python(message, category, *where, **rest)


_as_python = warnings.formatwarning


if __name__ == "__main__":
    sys.exit(main())
