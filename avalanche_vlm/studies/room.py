"""How many trainings this machine takes at once."""

from __future__ import annotations

PROCESS_BYTES = 2**30
"""What a training takes beside what its model makes it take: libraries, pictures, a batch and its activations."""
MODELS = 14
"""Times the bytes of a model's weights that a training takes at most, with those of its optimizer and of what recipes
keep of the model: 13.0 was the most that was seen."""


def jobs_at_once(runs: int, processors: int, weights: int | None, memory: int | None) -> int:
    """How many trainings to do at once, each with one thread or more.

    :param runs: trainings that there are to do.
    :param processors: processors that there are to use.
    :param weights: bytes of the model's weights; None if nobody knows.
    :param memory: bytes of memory that are free; None if nobody knows.
    :return: 1 or more.

    >>> jobs_at_once(4, 2, weights=6_000_000, memory=8 * 2**30)
    2
    >>> jobs_at_once(4, 16, weights=600_000_000, memory=32 * 2**30)
    3
    """
    if weights is None:
        return 1
    fit = runs if memory is None else memory // (PROCESS_BYTES + MODELS * weights)
    return max(1, min(runs, processors, fit))
