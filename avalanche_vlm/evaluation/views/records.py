"""``views.json``: the types that it is written as, and checked by when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from avalanche_vlm.evaluation.results import RunId
from avalanche_vlm.storage.documents import EXACT, Document, Finite, Fraction, Name, NotNegativeInt

MOST_EXAMPLES = 200
"""Pictures that a run keeps, at most."""
MOST_CLASSES = 12
"""Classes whose confusions are kept as a square, at most."""
MOST_TURNS = 10
"""Confusions that came or went, at most."""
MOST_POINTS = 40
"""Classes, or pairs, on a map, at most."""
MOST_STEPS = 12
"""Steps of the stream on a map, at most."""
_LETTERS = 1 << 18

PictureText = Annotated[str, Field(max_length=_LETTERS, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
"""A picture file in base64."""

Square = list[list[NotNegativeInt]]
MapPlace = Annotated[list[Finite], Field(min_length=2, max_length=2)] | None
"""A point of a map, across and up; None where nothing was measured."""


class ExampleRecord(TypedDict):
    """A test sample that is answered otherwise at the end than by the pretrained model: which of both was right, what
    the true answer is, what was answered, and its picture, no larger than a thumbnail."""

    task: Name
    kind: Literal["lost", "won"]
    true: Name
    before: Name
    after: Name
    form: Literal["png", "jpeg"]
    picture: PictureText


class ChangedRecord(TypedDict):
    """A task: its test samples, and how many of them are answered otherwise at the end: right before and wrong now,
    wrong before and right now, wrong in another way."""

    task: Name
    samples: NotNegativeInt
    lost: NotNegativeInt
    won: NotNegativeInt
    otherwise: NotNegativeInt


class TurnRecord(TypedDict):
    """How many of a class's test samples were taken for another class, by the pretrained model and at the end."""

    true: Name
    answer: Name
    samples: NotNegativeInt
    before: NotNegativeInt
    after: NotNegativeInt


class ConfusionsRecord(TypedDict):
    """Which classes are taken for which: of the classes with most wrong answers counts with true classes down, and the
    test samples of each; and what changed most. ``of``: number of all classes that were met."""

    classes: Annotated[list[Name], Field(max_length=MOST_CLASSES)]
    of: NotNegativeInt
    samples: list[NotNegativeInt]
    before: Square
    after: Square
    turns: Annotated[list[TurnRecord], Field(max_length=MOST_TURNS)]


class PointRecord(TypedDict):
    """What a point of a map stands for: a class, or a pair. ``moved``: one less the cosine between the features of the
    first and the last step, in all dimensions."""

    task: Name
    name: Name
    image_moved: Finite | None
    text_moved: Finite | None


class MapRecord(TypedDict):
    """Features of images and texts over the stream on the plane in which they vary most, the same for all steps:
    ``images`` and ``texts`` have by step a place for every point. ``share``: the share of the variance that the plane
    has. ``steps``: numbers of experiences trained."""

    kind: Literal["classes", "pairs"]
    points: Annotated[list[PointRecord], Field(max_length=MOST_POINTS)]
    steps: Annotated[list[NotNegativeInt], Field(max_length=MOST_STEPS)]
    images: list[list[MapPlace]]
    texts: list[list[MapPlace]]
    share: Fraction


class KeptRecord(TypedDict):
    """After so many experiences: modules in the model, bytes that are kept for the next task, parameters."""

    step: NotNegativeInt
    modules: NotNegativeInt
    ram_bytes: NotNegativeInt
    disk_bytes: NotNegativeInt
    parameters: NotNegativeInt


class ViewsRecord(TypedDict):
    """All of it; None for what there is nothing of, such as confusions of pairs."""

    changed: list[ChangedRecord]
    examples: Annotated[list[ExampleRecord], Field(max_length=MOST_EXAMPLES)]
    confusions: ConfusionsRecord | None
    map: MapRecord | None
    timeline: list[KeptRecord]


class KeptViews(ViewsRecord):
    """What ``views.json`` holds: this, and ``run``, what its run is known by."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId


def chosen_examples(lost: Sequence[ExampleRecord], won: Sequence[ExampleRecord], most: int) -> list[ExampleRecord]:
    """Half of the examples lost and half won, as far as there are so many.

    :param lost: examples that were right before.
    :param won: examples that are right now.
    :param most: number of examples, at most.

    >>> chosen_examples("abc", "x", 3), chosen_examples("abc", "xyz", 3)
    (['a', 'b', 'x'], ['a', 'b', 'x'])
    """
    of_lost = min(len(lost), max(most - most // 2, most - len(won)))
    return [*lost[:of_lost], *won[: most - of_lost]]


def _consistent(views: dict[str, Any]) -> dict[str, Any]:
    """Refuse parts that do not belong together."""
    if (found := views["confusions"]) is not None:
        classes = len(found["classes"])
        squares = (found["before"], found["after"])
        if len(found["samples"]) != classes or any({len(s), *map(len, s)} - {classes} for s in squares):
            raise ValueError(f"confusions: they are not of {classes} classes")
    if (drawn := views["map"]) is not None:
        steps, points = len(drawn["steps"]), len(drawn["points"])
        for side in ("images", "texts"):
            if len(drawn[side]) != steps or any(len(row) != points for row in drawn[side]):
                raise ValueError(f"map: {side} has not a place for each of {points} points at each of {steps} steps")
    return views


VIEWS: Document[KeptViews] = Document("the views of a run", Annotated[KeptViews, AfterValidator(_consistent)])
