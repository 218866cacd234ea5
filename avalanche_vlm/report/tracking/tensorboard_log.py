"""A log for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from avalanche.logging import TensorboardLogger

from avalanche_vlm._given import refuse_irregular
from avalanche_vlm.report.tracking.about import AboutRun, Log
from avalanche_vlm.report.tracking.base import GoesOn

EVENTS = "events.out.tfevents.*"


class TensorboardTracker(GoesOn, TensorboardLogger):
    """Avalanche's TensorBoard logger, which goes on with the log of a run, and shows the run's protocol as a text.

    :param folder: folder of the log.
    :param about: the run that is logged.
    :param log: its log, which is in the folder if it goes on.
    """

    def __init__(self, folder: Path, about: AboutRun, log: Log) -> None:
        self._before = _last_steps(folder) if any(folder.glob(EVENTS)) else {}
        super().__init__(folder)
        if not self._before:
            rows = [f"| {name} | {value} |" for name, value in {**about.tags, **about.settings}.items()]
            self.writer.add_text("protocol", "\n".join(["| setting | value |", "|---|---|", *rows]), 0)

    def last_before(self, name: str) -> int | None:
        return self._before.get(name)

    def flush(self) -> None:
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()


def _last_steps(folder: Path) -> dict[str, int]:
    """The last step of each metric in a folder of TensorBoard's."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    except ImportError:
        return {}
    found: dict[str, int] = {}
    for path in sorted(folder.glob(EVENTS)):
        refuse_irregular(path)
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found[value.tag] = max(event.step, found.get(value.tag, -1))
    return found
