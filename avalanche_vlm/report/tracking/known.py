"""Which trackers there are, and what each needs. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from avalanche_vlm.errors import InputError


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


_HOME = "avalanche_vlm.report.tracking"

TRACKERS: Mapping[str, KnownTracker] = {
    "csv": KnownTracker(f"{_HOME}.csv_table:CSVTracker", pictures=False),
    "tensorboard": KnownTracker(f"{_HOME}.tensorboard_log:TensorboardTracker", ("tensorboard",)),
    "wandb": KnownTracker(f"{_HOME}.wandb_run:WandBTracker", ("wandb",)),
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
            raise InputError(f"--log has {name!r}, and there is {', '.join(TRACKERS)}")
        for needed in TRACKERS[name].needs:
            if find_spec(needed) is None:
                lacks = name if needed == name else f"{name} with {needed}"
                raise InputError(f"--log {name} needs {lacks}: pip install 'avalanche-vlm[{name}]'")
