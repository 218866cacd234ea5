"""A log as a run of MLflow."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avalanche.evaluation.metric_results import AlternativeValues
from avalanche.logging import BaseLogger
from matplotlib.figure import Figure as Plot
from PIL.Image import Image

from avalanche_vlm.errors import InputError
from avalanche_vlm.report.tracking.about import LOG, AboutRun, Log
from avalanche_vlm.report.tracking.base import GoesOn
from avalanche_vlm.storage.locks import Lock

_REFUSED = re.compile(r"[^\w\-. /:]")
DATABASE = "mlflow.db"
MOST_WAITING = 500
"""Numbers that are written together, at most."""
SECONDS = 5.0
"""Time after which they are written in any case."""
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_SPECIAL = frozenset("%?#")
"""Letters that mean something in an address."""
_SETTING = 5000
"""Characters of a setting that are kept."""
_SETTINGS = 100
"""Settings that MLflow takes at once."""


class MLflowTracker(GoesOn, BaseLogger):
    """Logs to ``MLFLOW_TRACKING_URI`` where that is set, and otherwise to a database in a folder, which the runs of a
    comparison share: an experiment for each benchmark, in it a run for each run.

    :param folder: folder of the database and of the pictures.
    :param about: the run that is logged.
    :param log: its log, which is in the database if it goes on.
    :raises ImportError: without MLflow.
    """

    def __init__(self, folder: Path, about: AboutRun, log: Log) -> None:
        super().__init__()
        # Nothing is told to anyone but the server that was named, and a server that is gone is not waited for long.
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ImportError("there is no mlflow: pip install 'avalanche-vlm[mlflow]'") from error
        self._metric = Metric
        folder = folder.resolve()
        address = os.environ.get("MLFLOW_TRACKING_URI")
        with Lock(folder).acquire(60):  # a database that is made by two at once is broken
            self.client = MlflowClient(address or address_of(folder / DATABASE))
            experiment = self._experiment(about.tags.get("benchmark", "avalanche-vlm"), None if address else folder)
            filtering = f"tags.{LOG} = '{log.known}'"
            found = self.client.search_runs([experiment], filtering, max_results=1) if log.goes_on else []
            tags = {**about.tags, LOG: log.known}
            run = found[0] if found else self.client.create_run(experiment, run_name=about.title, tags=tags)
        self.run_id = run.info.run_id
        self._goes_on = bool(found)
        self._waiting: list[Any] = []
        self._written = time.monotonic()
        if found:
            self.client.update_run(self.run_id, status="RUNNING")
            return
        settings = [Param(allowed(name), str(value)[:_SETTING]) for name, value in about.settings.items()]
        for first in range(0, len(settings), _SETTINGS):
            self.client.log_batch(self.run_id, params=settings[first : first + _SETTINGS])

    def _experiment(self, name: str, folder: Path | None) -> str:
        if (there := self.client.get_experiment_by_name(name)) is not None:
            return there.experiment_id
        return self.client.create_experiment(name, None if folder is None else (folder / "artifacts").as_uri())

    def last_before(self, name: str) -> int | None:
        if not self._goes_on:
            return None
        history = self.client.get_metric_history(self.run_id, allowed(name))
        return max((entry.step for entry in history), default=None)

    def log_metrics(self, metric_values: Iterable[Any]) -> None:
        super().log_metrics(metric_values)
        if len(self._waiting) >= MOST_WAITING or time.monotonic() - self._written > SECONDS:
            self.flush()

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Log one value.

        :param name: name of the metric.
        :param value: its value; what is neither a number nor a picture is left out.
        :param x_plot: the step that it is of.
        """
        if isinstance(value, AlternativeValues):
            value = value.best_supported_value(Image, Plot, float, int)
        file = f"{allowed(name)}/{x_plot:06d}.png"
        if isinstance(value, Plot):
            self.client.log_figure(self.run_id, value, file)
        elif isinstance(value, Image):
            self.client.log_image(self.run_id, value, file)
        elif isinstance(value, float | int) and math.isfinite(value):
            self._waiting.append(self._metric(allowed(name), float(value), int(time.time() * 1000), x_plot))

    def flush(self) -> None:
        self._written, waiting = time.monotonic(), self._waiting
        self._waiting = []
        for first in range(0, len(waiting), MOST_WAITING):
            self.client.log_batch(self.run_id, metrics=waiting[first : first + MOST_WAITING])

    def close(self, finished: bool) -> None:
        self.flush()
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


def address_of(database: Path) -> str:
    """The address of a database in a file, whatever letters the file's path has.

    :param database: the file of the database.

    :raises InputError: for a path that this version of SQLAlchemy cannot be told, or where it is not installed.
    """
    if _SPECIAL.isdisjoint(str(database)):
        return f"sqlite:///{database}"
    try:
        from sqlalchemy.engine import URL, make_url
    except ImportError as error:
        raise InputError(f"MLflow's database takes SQLAlchemy ({error}): the extra mlflow has it") from error
    address = URL.create("sqlite", database=str(database)).render_as_string(hide_password=False)
    if make_url(address).database != str(database):
        raise InputError(f"MLflow's database cannot be {database}, a path with one of {' '.join(sorted(_SPECIAL))}")
    return address


def allowed(name: str) -> str:
    """A name in the letters that MLflow takes.

    :param name: name of a metric or a setting.

    >>> allowed("HeldOut/captions R@1")
    'HeldOut/captions R_1'
    """
    return _REFUSED.sub("_", name)
