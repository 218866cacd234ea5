"""What an advice and its pilots say, as their files hold it: the types that they are written as, and checked by when
they are read.

Scores are in percent, changes in points, None for what there is not.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue
from typing_extensions import NotRequired, TypedDict

from avalanche_vlm.evaluation.results import LedgerEntry, Protocol
from avalanche_vlm.storage.documents import (
    EXACT,
    Document,
    Finite,
    Fraction,
    Name,
    NotBelowZero,
    NotNegativeInt,
    Percent,
    Points,
)

Interval = Annotated[list[Finite], Field(min_length=2, max_length=2)]
"""Its low and its high end."""
ShareOfData = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""The part of a stream's data that a pilot trains on."""


class Minutes(TypedDict):
    """Minutes that were asked for, and that were used."""

    asked: NotBelowZero
    used: NotBelowZero


class Limiting(TypedDict):
    """:class:`~avalanche_vlm.studies.advice.constraints.Constraints` in JSON types."""

    max_bytes: NotNegativeInt | None
    raw_data: bool
    task_id: bool
    max_train_seconds: NotBelowZero | None
    keep_zero_shot: NotBelowZero | None


class TriedRecipe(TypedDict):
    """What a recipe's pilot came to."""

    recipe: Name
    score: Finite
    last: Percent
    interval: Interval
    expected: Percent
    zero_shot_kept: Points | None
    bytes: NotNegativeInt
    seconds: NotBelowZero
    pilot_seconds: NotBelowZero
    operational: NotNegativeInt
    operational_parts: dict[str, NotNegativeInt]
    n_test: NotNegativeInt
    dropped: str | None


TriedRound = TypedDict("TriedRound", {"share of the data": ShareOfData, "complete": bool, "recipes": list[TriedRecipe]})
"""Recipes on the same share of the data."""

Recommended = TypedDict(
    "Recommended",
    {
        "recipe": Name | None,
        "sentence": str,
        "confidence": Name | None,
        "why": str,
        "second": Name | None,
        "share of the data": ShareOfData,
    },
)
"""What is recommended, and how sure that is."""

Brings = TypedDict(
    "Brings",
    {
        "over": Name,
        "last": Interval | None,
        "zero-shot": Interval | None,
        "share of the data": ShareOfData | None,
    },
)
"""What a stage brings over the one before."""


class StageCosts(TypedDict):
    """What a stage costs."""

    bytes: NotNegativeInt
    seconds: NotBelowZero
    operational: NotNegativeInt
    parts: dict[str, NotNegativeInt]
    artifacts: list[Name]


PlanStage = TypedDict(
    "PlanStage",
    {
        "stage": NotNegativeInt,
        "recipe": Name,
        "do": str,
        "brings": Brings,
        "costs": StageCosts,
        "watch": str,
        "go on when": str,
    },
)
"""One stage of the plan."""


class LeftOut(TypedDict):
    """A recipe that is out, and why."""

    recipe: Name
    because: str


Advice = TypedDict(
    "Advice",
    {
        "protocol": Protocol,
        "minutes": Minutes,
        "seeds": list[NotNegativeInt],
        "constraints": Limiting,
        "rounds": list[TriedRound],
        "front": list[Name],
        "answer": Recommended,
        "plan": list[PlanStage],
        "excluded": list[LeftOut],
        "not run": list[LeftOut],
        "ledger": dict[Name, LedgerEntry],
        "warnings": list[str],
    },
)
"""What ``advice.json`` holds: what :func:`~avalanche_vlm.studies.advice.document.document` gives, and about what."""
Advice.__pydantic_config__ = EXACT  # type: ignore[attr-defined]

Right = Annotated[list[Fraction], Field(min_length=1)]
"""Scores of samples."""
Changes = Annotated[list[Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]], Field(min_length=1)]
"""Changes of samples' scores."""


class PilotRecord(TypedDict):
    """A :class:`~avalanche_vlm.studies.advice.pilot.Pilot` in JSON types."""

    recipe: Name
    share: ShareOfData
    tasks: Annotated[list[Right], Field(min_length=1)]
    kept: dict[Name, Changes]
    ledger: LedgerEntry
    seconds: NotBelowZero
    full_bytes: NotNegativeInt


class BrokenOff(TypedDict):
    """Seconds that a pilot had, and that it took until it was broken off."""

    allowed: Finite
    took: NotBelowZero


KeptPilot = TypedDict(
    "KeptPilot",
    {"request": dict[str, JsonValue], "pilot": NotRequired[PilotRecord], "broken off": NotRequired[BrokenOff]},
)
"""The file of a pilot: all that decides it, and what it came to."""
KeptPilot.__pydantic_config__ = EXACT  # type: ignore[attr-defined]


def _of_its_request(kept: dict[str, Any]) -> dict[str, Any]:
    """Refuse a pilot that is of another recipe or share than was asked for."""
    if ("pilot" in kept) == ("broken off" in kept):
        raise ValueError("it holds neither a pilot nor why it was broken off, or both")
    for fact in ("recipe", "share"):
        if "pilot" in kept and kept["pilot"][fact] != kept["request"].get(fact):
            raise ValueError(f"pilot.{fact} is not what its request asks for")
    return kept


ADVICE: Document[Advice] = Document("an advice", Advice)
PILOT: Document[KeptPilot] = Document("a pilot of an advice", Annotated[KeptPilot, AfterValidator(_of_its_request)])
