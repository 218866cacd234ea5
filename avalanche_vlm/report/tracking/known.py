"""Which trackers there are, and what each needs. Nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean


@dataclass(frozen=True)
class KnownTracker:
    """A tracker by name.

    :param home: where its logger is, as ``module:class``.
    :param needs: modules without which it logs nothing, which the extra of its name brings.
    :param pictures: whether it logs pictures.
    """

    home: str
    needs: tuple[str, ...] = ()
    pictures: bool = True
    least: str | None = None
    """The least version that logs, of the module of its name."""
    files: str | None = None
    """Pattern of its files in a run's folder; None where the runs of a command have one place."""


_HOME = "avalanche_vlm.report.tracking"

TRACKERS: Mapping[str, KnownTracker] = {
    "csv": KnownTracker(f"{_HOME}.csv_table:CSVTracker", pictures=False, files="metrics.csv"),
    "tensorboard": KnownTracker(
        f"{_HOME}.tensorboard_log:TensorboardTracker", ("tensorboard",), files="events.out.tfevents.*"
    ),
    "wandb": KnownTracker(f"{_HOME}.wandb_run:WandBTracker", ("wandb",), least="0.31"),
    "mlflow": KnownTracker(f"{_HOME}.mlflow_run:MLflowTracker", ("mlflow", "sqlalchemy", "alembic")),
}
"""What ``--log`` takes."""


def refuse_no_tracker(names: Iterable[str]) -> None:
    """Refuse trackers that there are not, or that are not installed.

    :param names: names of trackers.
    :raises InputError: for the first of them, naming the extra that brings it.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--log has {name!r}{did_you_mean(name, TRACKERS)}, and there is {', '.join(TRACKERS)}")
        for needed in TRACKERS[name].needs:
            if find_spec(needed) is None:
                lacks = name if needed == name else f"{name} with {needed}"
                raise InputError(f"--log {name} needs {lacks}: pip install 'avalanche-vlm[{name}]'")
        if (least := TRACKERS[name].least) is not None and _numbers(there := version(name)) < _numbers(least):
            lacks = f"{name} {least} or newer, and {there} is installed"
            raise InputError(f"--log {name} needs {lacks}: pip install -U 'avalanche-vlm[{name}]'")


def _numbers(version_of: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version_of)[:2]]
