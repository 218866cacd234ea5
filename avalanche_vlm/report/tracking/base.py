"""What our loggers share: nothing is logged again that an interrupted run has logged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avalanche.evaluation.metric_results import MetricValue
from avalanche.logging import BaseLogger

from avalanche_vlm.report.tracking.about import as_text


class GoesOn(BaseLogger):
    """Base of loggers that go on with a log: of a training that goes on from a checkpoint, the steps between it and the
    interruption come again, and are left out as far as the log tells what it has. Put it before a logger of
    Avalanche's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logged: dict[str, int] = {}

    def last_before(self, name: str) -> int | None:
        """The last step that an earlier process has logged.

        :param name: name of the metric.
        :return: its step; None for what is new.
        """
        return None

    def is_logged(self, name: str, step: int) -> bool:
        """Whether an earlier process has logged this.

        :param name: name of the metric.
        :param step: the step of its value.
        """
        if name not in self._logged:
            last = self.last_before(name)
            self._logged[name] = -1 if last is None else last
        return step <= self._logged[name]

    def log_metrics(self, metric_values: Iterable[Any]) -> None:
        """Log what is new.

        :param metric_values: values that metrics have published.
        """
        super().log_metrics(
            [value for value in under_plain_names(metric_values) if not self.is_logged(value.name, value.x_plot)]
        )

    def flush(self) -> None:
        """Have everything be where it stays, before a checkpoint says that it was trained."""

    def close(self, finished: bool) -> None:
        """Log no more.

        :param finished: whether the training has come to its end.
        """
        self.flush()


def under_plain_names(metric_values: Iterable[MetricValue]) -> list[MetricValue]:
    """The same values under names that every log can hold: on one line, and bytes that are no text as backslashes.

    :param metric_values: values that metrics have published.
    """
    return [MetricValue(of.origin, as_text(of.name), of.value, of.x_plot) for of in metric_values]
