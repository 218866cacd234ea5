"""The figure that says how good a model is where all classes count alike, read from the classes of a result."""

from __future__ import annotations

import statistics

from avalanche_vlm.evaluation.declaration import Figure, ResultEntry, found_at, number


def balanced(entry: ResultEntry) -> float | None:
    """The mean over tasks of the mean over classes of their accuracy at the end, in percent.

    :param entry: result of an experiment, whose ``classes`` has a list of classes per task.
    :return: percentage; None unless every task has classes.

    >>> balanced({"result": {"classes": [[{"last": 50.0}, {"last": 100.0}], [{"last": 25.0}]]}})
    50.0
    """
    tasks = found_at(entry, "result", "classes")
    means = []
    for task in tasks if isinstance(tasks, list) else []:
        known = [number(found_at(c, "last")) for c in task] if isinstance(task, list) else []
        if not known or None in known:
            return None
        means.append(statistics.fmean(v for v in known if v is not None))
    return statistics.fmean(means) if means else None


FIGURES = (
    Figure(
        "balanced",
        "Balanced",
        "percent",
        True,
        "As Last, but the score of a task is the mean over its classes of each class's accuracy: classes with few test "
        "samples count as much as those with many.",
        balanced,
    ),
)
