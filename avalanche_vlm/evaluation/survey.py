"""The survey's metrics as pure functions on a performance matrix.

In all formulas ``p[j][i]`` is the score on task i after training on task j. Tasks are 1..T and j = 0 is the pretrained
model, which is given apart: ``matrix`` is ``[T, T]`` and its row j - 1 holds ``p[j]``, ``pretrained`` is ``[T]`` and
holds ``p[0]``. Scores may have any scale on which higher is better; the results have the scale of the scores.

A zero is a score. A cell that was not measured is NaN (``None`` is read as NaN, so a matrix from JSON needs no
preparation). A metric that needs a missing cell is NaN itself; the others are not touched by it. Each function says
which cells it needs.

The definitions follow *Continual Learning for VLMs: A Survey and Taxonomy Beyond Forgetting* (arXiv 2508.04227).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.declaration import EVERYWHERE, Figure

if TYPE_CHECKING:  # tables and reports read the declarations here, and wait for no numpy
    import numpy as np
    from numpy.typing import ArrayLike

FIGURES = (
    Figure(
        "last",
        "Last",
        "percent",
        True,
        "The mean score over all tasks after the last one was trained.",
        shown=EVERYWHERE | {"plot"},
    ),
    Figure(
        "avg",
        "Avg",
        "percent",
        True,
        "For each task the mean of its scores after every training step, then the mean over the tasks.",
    ),
    Figure(
        "transfer",
        "Transfer",
        "percent",
        True,
        "For each task the mean of its scores before it was trained, pretrained left out; then the mean.",
        shown=EVERYWHERE | {"plot"},
    ),
    Figure(
        "forget",
        "Forget",
        "points",
        False,
        "For each task but the last: its best score since it was trained less its score at the end; then the mean.",
    ),
    Figure(
        "bwt",
        "BWT",
        "points",
        True,
        "Backward transfer: a task's score at the end less its score right after its training; the mean over tasks.",
    ),
    Figure(
        "zsd",
        "ZSD",
        "points",
        False,
        "Zero-shot degradation: a task's best score before its turn less its score just before its turn; the mean over "
        "tasks.",
        shown=EVERYWHERE | {"plot"},
    ),
)
"""What :func:`survey_metrics` gives, as results and reports show it: scores in percent, differences in points."""


def survey_metrics(matrix: ArrayLike, pretrained: ArrayLike | None = None) -> dict[str, float]:
    """All metrics of the survey (arXiv 2508.04227), each with its default definition.

    With one task only ``last`` and ``avg`` exist; the others are means over no task, and NaN.

    :param matrix: ``[T, T]``, row j - 1 the scores on all tasks after training on task j.
    :param pretrained: ``[T]``, the scores of the pretrained model. Without it ``zsd`` is NaN.
    :return: ``last``, ``avg``, ``transfer``, ``forget``, ``bwt`` and ``zsd``, in this order.
    :raises InputError: if ``matrix`` is empty, not square or not numeric, or ``pretrained`` has not one score per task.

    >>> metrics = survey_metrics([[0.75, 0.5], [0.25, 1.0]], pretrained=[0.5, 0.75])
    >>> for name, value in metrics.items():
    ...     print(name, value)
    last 0.625
    avg 0.625
    transfer 0.5
    forget 0.5
    bwt -0.5
    zsd 0.25
    """
    return {
        "last": last(matrix),
        "avg": avg(matrix),
        "transfer": transfer(matrix),
        "forget": forget(matrix),
        "bwt": bwt(matrix),
        "zsd": zsd(matrix, pretrained),
    }


def last(matrix: ArrayLike) -> float:
    """Mean over i of ``p[T][i]``: how good the final model is on all tasks.

    Needs the last row.

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :return: a value within the range of the scores.
    :raises InputError: if ``matrix`` is empty, not square or not numeric.

    >>> last([[0.75, 0.5], [0.25, 1.0]])
    0.625
    """
    return _mean(_square(matrix)[-1])


def avg(matrix: ArrayLike) -> float:
    """Mean over i of the mean over j=1..T of ``p[j][i]``: how good the model is on all tasks, all along the stream.

    The pretrained model is not in it. Needs every cell of ``matrix``.

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :return: a value within the range of the scores.
    :raises InputError: if ``matrix`` is empty, not square or not numeric.

    >>> avg([[0.75, 0.5], [0.25, 1.0]])
    0.625
    """
    return _mean(_square(matrix).mean(axis=0))


def transfer(matrix: ArrayLike) -> float:
    """Mean over i=2..T of the mean over j=1..i-1 of ``p[j][i]``: zero-shot ability on the tasks still to come.

    The mean per task comes first, so a late task, which has more such cells, does not weigh more than an early one. The
    pretrained model is not in it. Needs the cells strictly above the diagonal (j < i).

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :return: a value within the range of the scores; NaN for one task.
    :raises InputError: if ``matrix`` is empty, not square or not numeric.

    >>> transfer([[0.9, 0.5, 0.2], [0.9, 0.9, 0.4], [0.9, 0.9, 0.9]])  # mean of 0.5 and (0.2 + 0.4) / 2
    0.4
    """
    p = _square(matrix)
    return _mean([p[:i, i].mean() for i in range(1, len(p))])


def forget(matrix: ArrayLike) -> float:
    """Mean over i=1..T-1 of the max over j=i..T-1 of ``p[j][i] - p[T][i]``: the loss since a trained task's best.

    Negative where the final model is better on a task than it ever was (backward transfer). Needs the cells on and
    below the diagonal (j >= i) of the first T - 1 tasks.

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :return: a value of at least ``-bwt(matrix)``; NaN for one task.
    :raises InputError: if ``matrix`` is empty, not square or not numeric.

    >>> forget([[0.5, 0.0, 0.0], [0.75, 0.5, 0.0], [0.25, 0.75, 0.5]])  # mean of 0.75 - 0.25 and 0.5 - 0.75
    0.125
    """
    p = _square(matrix)
    return _mean([p[i:-1, i].max() - p[-1, i] for i in range(len(p) - 1)])


def bwt(matrix: ArrayLike) -> float:
    """Backward transfer, mean over i=1..T-1 of ``p[T][i] - p[i][i]``: what later training did to a trained task.

    Needs the diagonal and the last row of the first T - 1 tasks. The definition goes back to Lopez-Paz and Ranzato
    (arXiv 1706.08840).

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :return: negative where tasks are forgotten; NaN for one task.
    :raises InputError: if ``matrix`` is empty, not square or not numeric.

    >>> bwt([[0.5, 0.0, 0.0], [0.75, 0.5, 0.0], [0.25, 0.75, 0.5]])  # mean of 0.25 - 0.5 and 0.75 - 0.5
    0.0
    """
    p = _square(matrix)
    return _mean((p[-1] - p.diagonal())[:-1])


def zsd(
    matrix: ArrayLike,
    pretrained: ArrayLike | None,
    reference: Literal["best", "pretrained"] = "best",
    final: Literal["last", "worst"] = "last",
) -> float:
    """Zero-shot degradation: mean over i=2..T of a reference score minus a final score on task i.

    The literature has no single definition. Two choices, independent of each other, make the known ones:

    - ``reference``: ``"best"``, max over j=0..i-1 of ``p[j][i]``; or ``"pretrained"``, ``p[0][i]``.
    - ``final``: ``"last"``, ``p[i-1][i]``, just before task i is trained; or ``"worst"``, min over j=0..i of
      ``p[j][i]``, the training on task i itself included.

    So the four combinations are, each a mean over i=2..T:

    - ``("best", "last")``: max over j=0..i-1 of ``p[j][i] - p[i-1][i]``, the survey's figure (arXiv 2508.04227).
    - ``("pretrained", "worst")``: ``p[0][i] - min over j=0..i of p[j][i]``, after Select and Distill (arXiv
      2403.09296), which takes it on the last task of a stream and averages over cyclic orders of the tasks.
    - ``("pretrained", "last")``: ``p[0][i] - p[i-1][i]``, the net change; negative where zero-shot ability grew.
    - ``("best", "worst")``: max over j=0..i-1 of ``p[j][i]`` minus min over j=0..i of ``p[j][i]``; bounds the others.

    All need the pretrained model's scores on the tasks 2..T. ``"best"`` needs the cells strictly above the diagonal
    (j < i); ``"worst"`` these and the diagonal of the tasks 2..T; ``("pretrained", "last")``, of the matrix, only the
    cells just above the diagonal.

    :param matrix: ``[T, T]``, see :func:`survey_metrics`.
    :param pretrained: ``[T]``, the scores of the pretrained model; ``None`` gives NaN.
    :param reference: the score to lose from.
    :param final: the score that is left.
    :return: a value of at least 0, but for ``("pretrained", "last")``; NaN for one task.
    :raises InputError: if ``matrix`` is empty, not square or not numeric, ``pretrained`` has not one score per task, or
        a choice does not exist.

    >>> matrix = [[1.0, 0.75, 0.25], [1.0, 1.0, 0.5], [1.0, 1.0, 1.0]]
    >>> zsd(matrix, [0.5, 0.5, 0.75])  # mean of 0.75 - 0.75 and 0.75 - 0.5
    0.125
    >>> zsd(matrix, [0.5, 0.5, 0.75], reference="pretrained", final="worst")  # mean of 0.5 - 0.5 and 0.75 - 0.25
    0.25
    >>> zsd(matrix, None)
    nan
    """
    if reference not in ("best", "pretrained"):
        raise InputError(f"the reference of zero-shot degradation must be best or pretrained, not {reference!r}")
    if final not in ("last", "worst"):
        raise InputError(f"the final score of zero-shot degradation must be last or worst, not {final!r}")
    import numpy as np

    p = _square(matrix)
    if pretrained is None:
        return float("nan")
    row0 = _numbers(pretrained, "the pretrained scores")
    if row0.shape != (len(p),):
        raise InputError(
            f"the pretrained scores must be a row of {len(p)}, one for each task of the performance matrix, "
            f"but their shape is {_shape(row0)}"
        )
    p = np.vstack([row0, p])  # from here on row j is p[j]; column c is task i = c + 1
    drops = []
    for c in range(1, p.shape[1]):
        before = p[: c + 1, c]  # p[0..i-1][i]
        start = before.max() if reference == "best" else before[0]
        end = before[-1] if final == "last" else p[: c + 2, c].min()
        drops.append(start - end)
    return _mean(drops)


def _square(matrix: ArrayLike) -> np.ndarray:
    """The performance matrix as float64 ``[T, T]``, T >= 1."""
    p = _numbers(matrix, "the performance matrix")
    if p.size == 0:
        raise InputError("the performance matrix is empty")
    if p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise InputError(
            "the performance matrix must be square, a row after each task and a column for each task, "
            f"but its shape is {_shape(p)} (the pretrained model's row is given apart)"
        )
    return p


def _numbers(values: ArrayLike, what: str) -> np.ndarray:
    """Float64 of anything array-like."""
    import numpy as np

    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers in rows of equal length") from error


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) if array.ndim else "that of a single number"


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean as a plain float; over nothing NaN, without numpy's warning."""
    import numpy as np

    return float(np.mean(values)) if len(values) else float("nan")
