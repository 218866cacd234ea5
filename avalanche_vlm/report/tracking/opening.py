"""Trackers by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche.evaluation import PluginMetric

from avalanche_vlm._ranks import leads
from avalanche_vlm._registry import resolve
from avalanche_vlm.evaluation.tracked import Confusions, SurveyCurves, TrainingCurves
from avalanche_vlm.report.plots import confusions
from avalanche_vlm.report.tracking.about import about_run, begin_or_go_on
from avalanche_vlm.report.tracking.guarded import Guarded, why
from avalanche_vlm.report.tracking.known import TRACKERS, refuse_no_tracker
from avalanche_vlm.units import tell


def tracked_metrics(names: Sequence[str] = tuple(TRACKERS)) -> list[PluginMetric]:
    """What trackers log besides the scores: metrics for an evaluator, behind those that are there.

    :param names: names of the trackers; where none takes pictures, none are made.
    """
    pictures = [Confusions(confusions)] if any(TRACKERS[name].pictures for name in names) else []
    return [TrainingCurves(), SurveyCurves(), *pictures]


def trackers(
    names: Sequence[str],
    folder: str | Path,
    protocol: Mapping[str, Any] | None = None,
    *,
    goes_on: bool = False,
    run: str | None = None,
    title: str | None = None,
    within: str | Path = ".",
    remark: Callable[[str], None] = lambda sentence: tell(sentence, errors=True),
) -> list[Guarded]:
    """Loggers for an ``EvaluationPlugin``, each in a folder of its name. One that cannot be opened, or fails later, is
    a remark, and the training goes on. Of several processes that train together the first one alone has them.

    :param names: ``csv``, ``tensorboard``, ``wandb`` and ``mlflow``, as many as are wanted.
    :param folder: folder of the logs.
    :param protocol: what the run is known by, and its tags: ``protocol`` of a result, or ``recipe``, ``seed``,
        ``benchmark``, ``label_space``, ``model`` and whatever else.
    :param goes_on: whether the training goes on from a checkpoint: then the log that the folder has of this run goes on
        as well, and what it has is left out. Otherwise a log begins, and one that is there is set aside.
    :param run: a digest that tells the run from others; None for that of the protocol.
    :param title: its name among others; None for recipe and seed.
    :param within: where the run is in the folder of each tracker.
    :param remark: is told what fails, in a sentence.
    :raises InputError: for a name that there is not, or whose library is not installed, naming the extra.
    """
    refuse_no_tracker(names)
    if not leads():
        return []
    about = about_run(protocol or {}, run, title)
    found = []
    for name in dict.fromkeys(names):
        place = Path(folder) / name
        own = place / within
        files = TRACKERS[name].files
        further = {"remark": remark} if name == "wandb" else {}
        try:
            log = begin_or_go_on(own, about, goes_on, files)
            home = own if files else place
            found.append(Guarded(name, resolve(TRACKERS[name].home)(home, about, log, **further), remark))
        except Exception as error:  # disks, servers and databases each have their own
            remark(f"{name} logs nothing, and the training goes on: {why(error)}")
    return found


class Trackers:
    """The trackers of one run, opened when its protocol is known, and closed when it is over.

    :param names: names of trackers; with none it does nothing.
    :param folder: folder of the logs.
    :param options: further options of :func:`trackers`.
    """

    def __init__(self, names: Sequence[str] = (), folder: str | Path = ".", **options: Any) -> None:
        self.names, self._folder, self._options = tuple(names), folder, options
        self._open: list[Guarded] = []
        self._finished = False

    @property
    def metrics(self) -> list[PluginMetric]:
        """What they log besides the scores."""
        return tracked_metrics(self.names) if self.names else []

    def __call__(self, protocol: Mapping[str, Any], goes_on: bool = False) -> list[Guarded]:
        """The loggers, opened.

        :param protocol: the run's protocol.
        :param goes_on: whether the training goes on from a checkpoint.
        """
        if self.names:
            self._open = trackers(self.names, self._folder, protocol, goes_on=goes_on, **self._options)
        return self._open

    def finished(self) -> None:
        """Say that the training has come to its end."""
        self._finished = True

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *raised: Any) -> None:
        for tracker in self._open:
            tracker.close(self._finished)
