"""Which cells of the performance matrix are measured, and what is said of figures that need others.

With all of them, evaluation grows with the square of the tasks. The first and the last row are whole in any case: what
the pretrained model can do, and what is left at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm.evaluation.survey import FIGURES

CHOSEN = ("eval_tasks", "eval_every")
"""Settings of a training that choose the cells (:class:`~avalanche_vlm.training.settings.TrainSettings`)."""


def tasks_measured(step: int, tasks: int, chosen: str = "all", every: int = 1) -> int:
    """How many tasks, from the first on, are evaluated at a step.

    :param step: number of experiences trained so far, 0 to ``tasks``.
    :param tasks: number of tasks of the stream.
    :param chosen: ``"all"`` tasks, those ``"seen"`` so far, or none but after the ``"last"``.
    :param every: number of experiences from one evaluation to the next, 1 or more.
    :return: 0 where nothing is evaluated.

    >>> [tasks_measured(step, 4) for step in range(5)]
    [4, 4, 4, 4, 4]
    >>> [tasks_measured(step, 4, "seen") for step in range(5)]
    [4, 1, 2, 3, 4]
    >>> [tasks_measured(step, 4, "seen", every=2) for step in range(5)]
    [4, 0, 2, 0, 4]
    >>> [tasks_measured(step, 4, "last") for step in range(5)]
    [4, 0, 0, 0, 4]
    """
    if step in (0, tasks):
        return tasks
    if chosen == "last" or step % every:
        return 0
    return step if chosen == "seen" else tasks


def has_diagonal(chosen: str, every: int) -> bool:
    """Whether every task is evaluated right after its own training, as backward transfer needs it.

    :param chosen: ``"all"``, ``"seen"`` or ``"last"``.
    :param every: number of experiences from one evaluation to the next.
    """
    return chosen != "last" and every == 1


def not_measured(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sentence on figures that need cells which were not measured; none where all were.

    :param results: what ``result.json`` holds, of recipes and seeds on one stream.

    >>> matrix = [[50.0, 50.0], [90.0, None], [80.0, 90.0]]
    >>> train = {"eval_tasks": "seen", "eval_every": 1}
    >>> not_measured([{"matrix": matrix, "metrics": {"last": 85.0, "zsd": None}, "protocol": {"train": train}}])
    ['ZSD has no value: it needs scores that were not measured (eval_tasks seen, eval_every 1).']
    """
    lacking: dict[str, None] = {}
    how = ""
    for result in results:
        matrix, metrics = result.get("matrix"), result.get("metrics")
        if not isinstance(matrix, list) or not isinstance(metrics, Mapping) or len(matrix) < 3:
            continue
        if any(isinstance(row, list) and None in row for row in matrix):
            lacking |= {of.title: None for of in FIGURES if of.name in metrics and metrics[of.name] is None}
            train = (result.get("protocol") or {}).get("train") or {}
            told = ", ".join(f"{name} {train[name]}" for name in CHOSEN if name in train)
            how = f" ({told})" if told else how
    if not lacking:
        return []
    *others, last = lacking
    names, verbs = (f"{', '.join(others)} and {last}", ("have", "they need")) if others else (last, ("has", "it needs"))
    return [f"{names} {verbs[0]} no value: {verbs[1]} scores that were not measured{how}."]
