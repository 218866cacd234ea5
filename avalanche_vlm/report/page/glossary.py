"""What the words mean, for a reader who has not read the survey (arXiv 2508.04227)."""

from __future__ import annotations

from collections.abc import Iterable

from avalanche_vlm.evaluation.declaration import Figure

WORDS = (
    ("Recipe", "A way of training: which data, losses, modules and memories are combined."),
    ("Task, stream", "A task is one set of data to learn; the stream is the order in which the tasks come."),
    ("Pretrained", "The model before it was trained on the stream: step 0 in every curve and row 0 in every matrix."),
    (
        "Cross-modal drift",
        "Images and texts that belong together no longer match as they did: what retrieval lost against the pretrained "
        "model.",
    ),
    (
        "Parameter interference",
        "Training a later task damaged weights that an earlier task needs: the mean, over the earlier tasks, of the "
        "score right after a task's own training less its score at the end.",
    ),
    (
        "Zero-shot erosion",
        "Abilities that no task trained are lost: the mean loss, against the pretrained model, of held-out sets and of "
        "tasks before their turn.",
    ),
    (
        "R@1, hit@1",
        "Recall at 1: the share of captions whose best match among all pictures is the right one, and the reverse, "
        "averaged.",
    ),
    (
        "Held-out, zero-shot kept",
        "Scores on data that no task trains. They show what the model still can do without having been taught.",
    ),
    (
        "Interval",
        "From low to high: where the figure would lie if the test samples were drawn again. If zero is inside, the "
        "effect cannot be told from none.",
    ),
    ("Points", "A difference of two percentages: from 80 % to 75 % is a loss of 5 points."),
    (
        "Conflict cosine",
        "Whether a new task pulls a module the way earlier tasks would (above 0) or against them (below 0): the cosine "
        "between the tasks' gradients.",
    ),
    (
        "Weighted update",
        "How far a task moved a module, each weight counted by how much earlier tasks need it (Fisher information).",
    ),
    ("CKA, RSA", "How alike two sets of features are in their geometry: 1 is the same, 0 unrelated."),
    (
        "Alignment, uniformity",
        "Mean squared distance of matching pairs (lower: closer), and how evenly features fill the sphere (lower: more "
        "even).",
    ),
    ("Calibration error", "How far the model's confidence is from its share of right answers, in points."),
    ("Pareto front", "The recipes that no other recipe beats in every respect at once."),
    ("Label space", "Which classes compete at test: those of the task, those seen so far, or all of them."),
    (
        "Held-out change",
        "What the held-out sets gained (above 0) or lost (below 0) against the pretrained model: how much of "
        "zero-shot is kept.",
    ),
    ("Score of a pilot", "Last, less the points by which the held-out change is worse than what was asked for."),
    (
        "Operational cost",
        "How much a recipe changes what is deployed: parameters, files to version, a task id that must be known, and "
        "whether it can be undone.",
    ),
)
"""Terms with their meaning; figures bring theirs."""


def glossary(figures: Iterable[Figure]) -> list[dict[str, str]]:
    """Every term of the report and its meaning: the general words, then each figure's title and description.

    :param figures: figures that the report shows.
    """
    directions = {True: " Higher is better.", False: " Lower is better.", None: ""}
    described = [(figure.title, figure.description + directions[figure.higher_is_better]) for figure in figures]
    return [{"term": term, "words": words} for term, words in (*WORDS, *described)]
