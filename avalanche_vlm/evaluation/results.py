"""What an experiment comes to, as the files of a run hold it: the types that they are written as, and checked by when
they are read.

What a type cannot say is checked as well: that the matrix has a row per step and a column per task, that curves have a
value per step, and that metrics are those of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue
from typing_extensions import NotRequired, TypedDict

from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.evaluation.survey import FIGURES
from avalanche_vlm.storage.documents import EXACT, Document, Finite, Name, NotBelowZero, NotNegativeInt, Percent

RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""What a run is known by in all its files: a digest of what was asked for."""

_ROUNDED = 1e-3
"""Percent that metrics may be off because the cells of a matrix have four decimals."""


def _said(protocol: dict[str, Any]) -> dict[str, Any]:
    """Refuse a protocol that does not say what every reader of it needs."""
    kinds = {"recipe": str, "recipe_options": dict, "train": dict, "seed": int, "versions": dict, "unit": str}
    for name, kind in kinds.items():
        if type(protocol.get(name)) is not kind:
            raise ValueError(f"it does not say {name}")
    if protocol["unit"] != "percent":
        raise ValueError(f"its unit is {protocol['unit']!r} and not percent")
    return protocol


Protocol = Annotated[dict[str, Any], AfterValidator(_said)]
"""Everything that decides figures."""

Curves = dict[Name, list[Percent | None]]
"""Values by name, one per step, None for a missing one."""

ClassRecord = TypedDict(
    "ClassRecord", {"class": Name, "samples": NotNegativeInt, "pretrained": Percent | None, "last": Percent | None}
)
"""A class of a task: its name, its test samples, and accuracies in percent."""


class GuessRecord(TypedDict):
    """A :class:`~avalanche_vlm.evaluation.chance.Guess` in JSON types, its level in percent."""

    classes: NotNegativeInt
    samples: NotNegativeInt
    level: Percent
    alone: NotRequired[list[NotNegativeInt]]


class PassedOverRecord(TypedDict):
    """Image files that could not be read when a run met them, where others took their places: how many, and a sentence
    on each of the first hundred."""

    count: NotNegativeInt
    files: list[str]


class DataRecord(TypedDict):
    """What a result says of its data: sentences on what was left out and on what to know of it, of every part how many
    captions were cut, of every task of few shots which of its training images were drawn, or of one without a test
    part which of its pairs, and which images were passed over."""

    skipped: list[str]
    notes: list[str]
    cut: dict[str, dict[str, NotNegativeInt]]
    chosen: NotRequired[dict[Name, list[NotNegativeInt]]]
    passed_over: NotRequired[PassedOverRecord]


class FigureRecord(TypedDict):
    """A :class:`~avalanche_vlm.evaluation.declaration.Figure` in JSON types."""

    title: Name
    unit: str
    higher_is_better: bool | None
    description: Name
    shown: list[str]


class Costs(TypedDict):
    """Bytes and parameters, of which the model may have fewer than before."""

    stored_bytes: NotNegativeInt
    trainable_parameters: NotNegativeInt
    added_parameters: int
    model_parameters: NotNegativeInt


class Scored(TypedDict):
    """The scores of a :class:`Result`, in percent, None for a missing one.

    ``matrix``: a row per step, the pretrained model's first, and a column per task. ``held_out`` and ``alignment``
    (which is no percentage): curves by name, one value per step. ``metrics``: the survey's figures, and those of
    metrics that were passed. ``classes``: per task a record of every class with test samples, none of image-text tasks
    (:func:`~avalanche_vlm.evaluation.per_class.class_records`). ``chance``: per task how many classes compete at the
    end, how many test samples it has, and what guessing comes to (:func:`~avalanche_vlm.evaluation.chance.guesses`).
    """

    matrix: list[list[Percent | None]]
    held_out: Curves
    alignment: dict[Name, list[Annotated[Finite, Field(ge=-2.001, le=2.001)] | None]]
    metrics: dict[Name, JsonValue]
    classes: list[list[ClassRecord]]
    chance: list[GuessRecord]


class Result(Scored):
    """What an experiment comes to.

    ``protocol``: everything that decides the figures. ``tasks``: names in the order of the stream. ``data``: what was
    left out of it. ``costs``: bytes and parameters. ``figures``: declarations of the figures of metrics that were
    passed, by name; absent without any.
    """

    protocol: Protocol
    tasks: Annotated[list[Name], Field(min_length=1)]
    data: DataRecord
    costs: Costs
    figures: NotRequired[dict[Name, FigureRecord]]


class KeptResult(Result):
    """What ``result.json`` holds: a result, and ``run``, what its run is known by."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId


class PartialResult(TypedDict):
    """What ``partial.json`` holds of a run that is not finished: how many experiences it has trained, and the rows of
    the matrix in percent, as far as they are measured."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId
    recipe: Name
    seed: NotNegativeInt
    unit: Literal["percent"]
    trained: NotNegativeInt
    matrix: list[list[Percent | None]]


class Timing(TypedDict):
    """Seconds of training, of its processor time (all threads together, which other processes on the machine disturb
    less), and of evaluation. Of a run that was interrupted, those of the work that its result rests on: what was lost
    and done again counts once, and neither reading nor writing checkpoints counts."""

    train_seconds: NotBelowZero
    train_cpu_seconds: NotBelowZero
    eval_seconds: NotBelowZero


class KeptTiming(Timing):
    """What ``timing.json`` holds: these seconds, those of the whole run, and ``run``, what its run is known by."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId
    total_seconds: NotBelowZero


class LedgerEntry(TypedDict):
    """What a recipe stores, computes and changes (:class:`~avalanche_vlm.evaluation.ledger.Ledger`); None for what is
    not known."""

    stored_ram_bytes: NotNegativeInt
    stored_disk_bytes: NotNegativeInt
    reference_pairs_needed: bool
    generator_needed: bool
    raw_user_data_kept: bool | None
    undeclared_plugins: list[Name]
    trainable_parameters: NotNegativeInt
    added_parameters: int
    train_seconds: NotBelowZero
    peak_memory_bytes: NotNegativeInt | None
    extra_forward_passes_per_sample: Finite | None
    extra_backward_passes_per_sample: Finite | None
    training_flops_per_sample: NotBelowZero | None
    inference_flops_per_sample: NotNegativeInt
    artifacts: list[Name]
    task_id_needed: bool
    reversible: bool


class KeptLedger(LedgerEntry):
    """What ``ledger.json`` holds: the entry, and ``run``, what its run is known by."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    run: RunId


def metrics_of(matrix: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
    """The survey's metrics by their definitions, for readers that wait for no numpy; None for one that needs a missing
    cell. :func:`~avalanche_vlm.evaluation.survey.survey_metrics` computes those of results.

    :param matrix: a row per step, the pretrained model's first, and a column per task.

    >>> metrics_of([[50.0, 75.0], [75.0, 50.0], [25.0, 100.0]])
    {'last': 62.5, 'avg': 62.5, 'transfer': 50.0, 'forget': 50.0, 'bwt': -50.0, 'zsd': 25.0}
    """
    nan = float("nan")
    # Of each task what it scored step by step: whole columns, since a matrix grows with the square of the tasks.
    p = [[nan if cell is None else cell for cell in column] for column in zip(*matrix, strict=True)]
    tasks, end = range(len(p)), [column[-1] for column in p]
    found = {
        "last": end,
        "avg": [fmean(column[1:]) for column in p],
        "transfer": [fmean(p[i][1 : i + 1]) for i in tasks[1:]],
        "forget": [_largest(p[i][i + 1 : -1]) - end[i] for i in tasks[:-1]],
        "bwt": [end[i] - p[i][i + 1] for i in tasks[:-1]],
        "zsd": [_largest(p[i][: i + 1]) - p[i][i] for i in tasks[1:]],
    }
    means = {name: fmean(values) if values else nan for name, values in found.items()}
    return {name: value if value == value else None for name, value in means.items()}


def _largest(there: list[float]) -> float:
    """The largest, NaN where one is: ``max`` would pass it over, and a sum does not."""
    total = sum(there)
    return total if total != total else max(there)


def _consistent(result: dict[str, Any]) -> dict[str, Any]:
    """Refuse parts that do not belong together."""
    tasks, rows = len(result["tasks"]), result["matrix"]
    if len(rows) != tasks + 1 or any(len(row) != tasks for row in rows):
        raise ValueError(f"matrix: it is not {tasks + 1} rows of {tasks} scores")
    for part in ("held_out", "alignment"):
        for name, values in result[part].items():
            if len(values) != tasks + 1:
                raise ValueError(f"{part}: {name} has {len(values)} values and not one for each of {tasks + 1} steps")
    for part in ("classes", "chance"):
        if len(result[part]) not in (0, tasks):
            raise ValueError(f"{part}: it is of {len(result[part])} tasks and not of {tasks}")
    _check_metrics(result["metrics"], rows, result.get("figures", {}))
    return result


def _rectangular(partial: dict[str, Any]) -> dict[str, Any]:
    """Refuse rows of different tasks."""
    if len({len(row) for row in partial["matrix"]}) > 1:
        raise ValueError("matrix: its rows have not as many scores each")
    return partial


def _check_metrics(metrics: Mapping[str, Any], rows: list[list[float | None]], figures: Mapping[str, Any]) -> None:
    """Refuse metrics that are not those of the matrix, or not what their declarations say."""
    computed = metrics_of(rows)
    for figure in FIGURES:
        if figure.name not in metrics:
            raise ValueError(f"metrics: it has no {figure.name}")
    for name, value in metrics.items():
        if name in computed:
            there = computed[name]
            both = value is not None and there is not None
            if type(value) not in (int, float, type(None)) or (value is None) != (there is None):
                raise ValueError(f"metrics: {name} is not what the matrix comes to")
            if both and not abs(value - there) <= _ROUNDED:
                raise ValueError(f"metrics: {name} is not what the matrix comes to, {there:.4f}")
            continue
        declared = Figure.from_json(name, figures.get(name))
        if declared is None or (value is not None and declared.checked(value) is None):
            raise ValueError(f"metrics: {name} is not declared as what it is under figures")
    if lacking := [name for name in figures if name not in metrics]:
        raise ValueError(f"figures: {lacking[0]} has no value under metrics")


RESULT: Document[KeptResult] = Document("the result of a run", Annotated[KeptResult, AfterValidator(_consistent)])
PARTIAL_RESULT: Document[PartialResult] = Document(
    "the rows of an unfinished run", Annotated[PartialResult, AfterValidator(_rectangular)]
)
TIMING: Document[KeptTiming] = Document("the timing of a run", KeptTiming)
LEDGER: Document[KeptLedger] = Document("the ledger of a run", KeptLedger)
