"""What a diagnosis says, as ``diagnosis.json`` holds it: the types that it is written as, and checked by when it is
read.

Scores are in percent, losses in points, None for what was not measured.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import NotRequired, TypedDict

from avalanche_vlm.evaluation.results import Protocol, RunId
from avalanche_vlm.storage.documents import EXACT, Document, Finite, Name, NotNegativeInt, Percent, Points

Grid = list[list[Finite | None]]
"""A row per step and a column per block."""


class PointsLost(TypedDict):
    """Points with their interval."""

    points: Finite | None
    low: Finite | None
    high: Finite | None


class Exposure(PointsLost):
    """How much one failure mode has cost, and by what measure."""

    measure: Name


class Exposures(TypedDict):
    """The three failure modes."""

    drift: Exposure
    interference: Exposure
    erosion: Exposure


class LayerCurves(TypedDict):
    """The alikeness of every block to what it was."""

    names: list[Name]
    CKA: Grid


class DriftCurves(TypedDict):
    """How features drift: values by name, one per step."""

    curves: dict[Name, list[Finite | None]]
    layers: LayerCurves


Conflicts = TypedDict("Conflicts", {"cosine": Grid, "negative share": Grid})
"""How gradients of tasks oppose each other."""


class Interference(TypedDict):
    """What the training of one task does to weights that others need: a row per trained experience."""

    blocks: list[Name]
    conflict: Conflicts
    update: Grid


SetCurves = TypedDict("SetCurves", {"score": list[Percent | None], "calibration error": list[Percent | None]})
"""A set's score and calibration error, one value per step."""

ErodedClass = TypedDict("ErodedClass", {"set": Name, "class": Name, "before": Percent, "after": Percent})
"""A class that lost."""


class Erosion(TypedDict):
    """What sets that nothing trained have lost."""

    sets: dict[Name, SetCurves]
    classes: list[ErodedClass]


class Recovery(TypedDict):
    """What an intervention has recovered, in points, and as a share of what was lost."""

    name: Name
    undoes: Name
    recovered: Points | None
    low: Points | None
    high: Points | None
    share: Finite | None


class BlockRecovery(TypedDict):
    """What comes back when one block's weights are put back."""

    block: Name
    recovered: Points | None
    low: Points | None
    high: Points | None


class CauseFound(TypedDict):
    """The cause, the block where it is, and a sentence."""

    cause: Name
    module: Name | None
    sentence: str


class Attribution(TypedDict):
    """Why a score was lost (:func:`~avalanche_vlm.studies.attribution.cause.attribute`)."""

    score: Name
    samples: NotNegativeInt
    before: Percent | None
    before_is: Name
    trained: Percent | None
    lost: PointsLost
    interventions: list[Recovery]
    unexplained: PointsLost
    modules: list[BlockRecovery]
    verdict: CauseFound
    mismatched: NotRequired[NotNegativeInt]


class Diagnosis(TypedDict):
    """What :func:`~avalanche_vlm.studies.diagnosis.diagnose` gives."""

    protocol: Protocol
    tasks: Annotated[list[Name], Field(min_length=1)]
    remarks: list[str]
    exposures: Exposures
    drift: DriftCurves
    interference: Interference
    erosion: Erosion
    attribution: list[Attribution]
    versions: dict[str, str]


class KeptDiagnosis(Diagnosis):
    """What ``diagnosis.json`` holds: a diagnosis, and ``run``, what the run that it is of is known by."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId


class KeptAttribution(TypedDict):
    """An attribution that is finished, in a diagnosis that is not, and what decided it."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    asked: str
    found: Attribution


def _rectangular(found: dict[str, Any]) -> dict[str, Any]:
    """Refuse curves that are not of the stream's steps, and grids that are not of their blocks."""
    tasks, drift, interference = len(found["tasks"]), found["drift"], found["interference"]
    curves = {f"drift.curves.{name}": values for name, values in drift["curves"].items()}
    for name, of in found["erosion"]["sets"].items():
        curves |= {f"erosion.sets.{name}.{figure}": values for figure, values in of.items()}
    curves["drift.layers.CKA"] = drift["layers"]["CKA"]
    for name, values in curves.items():
        if len(values) != tasks + 1:
            raise ValueError(f"{name}: it has {len(values)} values and not one for each of {tasks + 1} steps")
    rows = {f"interference.conflict.{name}": grid for name, grid in interference["conflict"].items()}
    rows["interference.update"] = interference["update"]
    for name, grid in rows.items():
        if len(grid) != tasks:
            raise ValueError(f"{name}: it has {len(grid)} rows and not one for each of {tasks} tasks")
    columns = {name: (grid, len(interference["blocks"])) for name, grid in rows.items()}
    columns["drift.layers.CKA"] = drift["layers"]["CKA"], len(drift["layers"]["names"])
    for name, (grid, blocks) in columns.items():
        if any(len(row) != blocks for row in grid):
            raise ValueError(f"{name}: a row has not one value for each of {blocks} blocks")
    return found


DIAGNOSIS: Document[KeptDiagnosis] = Document("a diagnosis", Annotated[KeptDiagnosis, AfterValidator(_rectangular)])
ATTRIBUTION: Document[KeptAttribution] = Document("an attribution of an unfinished diagnosis", KeptAttribution)
