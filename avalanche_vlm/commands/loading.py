"""What a command imports before it does anything, which takes seconds: shown where someone watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from avalanche_vlm._processors import cores, crowded
from avalanche_vlm.commands.requests import AdviseRequest, CompareRequest, DiagnoseRequest, Part, TrainingRequest
from avalanche_vlm.units import tell

_TRAINING = "avalanche_vlm.studies.experiment"
_SAVED = "avalanche_vlm.artifacts.loading"
_VERSIONS = "avalanche_vlm.studies.living.records"
HEAVY = {
    **dict.fromkeys(("run", "compare", "diagnose", "advise", "update"), _TRAINING),
    **dict.fromkeys(("predict", "retrieve", "export", "serve"), _SAVED),
    **dict.fromkeys(("versions", "rollback", "diff"), _VERSIONS),
}
"""The module of each command that takes the heavy libraries with it; the other commands have none."""


def load_for(command: str, request: Part) -> None:
    """Import what a command needs, once it is known that it can be meant.

    :param command: name of the command.
    :param request: what it is asked.
    """
    module = HEAVY.get(command)
    if module is None or module in sys.modules:
        return
    if isinstance(request, CompareRequest | AdviseRequest):
        from avalanche_vlm.commands.side_by_side import begin_imports

        begin_imports(request)
    with spinning(getattr(request, "quiet", False), "loading torch and avalanche"):
        import_module(module)


def warn_of_crowd(request: Part) -> None:
    """Say that other processes keep the processors busy that a training would have, to whoever watches.

    :param request: what the command is asked.
    """
    trains = isinstance(request, TrainingRequest | DiagnoseRequest) and not request.quiet and sys.stderr.isatty()
    elsewhere = isinstance(request, TrainingRequest) and request.elsewhere
    if not trains or elsewhere or getattr(request, "device", "").startswith("cuda"):
        return
    if why := crowded(_threads_of_one(request)):
        tell(why, errors=True)


def _threads_of_one(request: Part) -> int:
    """Threads that wait for each other: those of one training, of which a comparison has several side by side."""
    threads = getattr(request, "threads", None) or cores()
    if not isinstance(request, CompareRequest | AdviseRequest):
        return threads
    runs = len(request.recipes)
    if isinstance(request, CompareRequest):
        runs = max(runs, len(request.variants)) * len(request.seeds)
    return max(1, threads // max(1, min(request.jobs or threads, runs)))


@contextmanager
def spinning(quiet: bool, what: str) -> Iterator[None]:
    """Something turns while it lasts, where someone watches.

    :param quiet: whether nothing is shown.
    :param what: what is done, in words.
    """
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
