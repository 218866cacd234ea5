"""A log as a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avalanche_vlm._given import refuse_irregular
from avalanche_vlm.report.tracking.about import AboutRun, Log
from avalanche_vlm.report.tracking.base import GoesOn

COLUMNS = ("step", "metric", "value")
TABLE = "metrics.csv"


class CSVTracker(GoesOn):
    """Appends a line ``step,metric,value`` for every number to ``metrics.csv``. Pictures it does not take.

    Avalanche's own ``CSVLogger`` has columns for accuracy and loss alone, and empties its files when it is made.

    :param folder: folder of the table.
    :param about: the run that is logged.
    :param log: its log, which is in the folder if it goes on.
    """

    def __init__(self, folder: Path, about: AboutRun, log: Log) -> None:
        super().__init__()
        path = folder / TABLE
        self._before = _whole_lines(path) if path.exists() else {}
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if not self._file.tell():
            self._writer.writerow(COLUMNS)

    def last_before(self, name: str) -> int | None:
        return self._before.get(name)

    def log_metrics(self, metric_values: Iterable[Any]) -> None:
        super().log_metrics(metric_values)
        self._file.flush()

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Write a line.

        :param name: name of the metric.
        :param value: its value; what is no number is left out.
        :param x_plot: the step that it is of.
        """
        if isinstance(value, float | int):
            self._writer.writerow((x_plot, name, repr(value) if math.isfinite(value) else str(float(value))))

    def flush(self) -> None:
        self._file.flush()

    def close(self, finished: bool) -> None:
        self._file.close()


def _whole_lines(path: Path) -> dict[str, int]:
    """The last step of each metric of a table, of which a line that was not all written is cut off."""
    refuse_irregular(path)
    found: dict[str, int] = {}
    with path.open("r+b") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            step, name, *_ = [*next(csv.reader([line.decode(errors="replace")])), "", ""]
            if step.isdecimal() and len(step) < 19:
                found[name] = max(int(step), found.get(name, -1))
    return found
