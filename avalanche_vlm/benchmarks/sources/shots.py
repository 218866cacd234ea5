"""Few training images per class, drawn class by class: what is drawn of one depends neither on other classes nor on the
order of the tasks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from avalanche_vlm.benchmarks.sources.items import PARTS, Items, places_by_number
from avalanche_vlm.errors import InputError


def places_drawn(
    classes: Iterable[tuple[str, Sequence[int] | np.ndarray]], task: str, shots: int, seed: int
) -> list[int]:
    """The places of the images that are drawn of a task; of a class with fewer images some are drawn more than once.

    :param classes: names of the classes, and the places of each one's images.
    :param task: name of the task.
    :param shots: images per class, 1 or more.
    :param seed: seed of the draw, 0 or more.

    >>> places_drawn([("cat", [0, 2]), ("dog", [1])], "pets", 2, 0)
    [0, 2, 1, 1]
    """
    rows: list[int] = []
    for name, own in classes:
        if len(own):
            rng = np.random.default_rng([seed, zlib.crc32(f"{task}\0{name}".encode(errors="surrogatepass"))])
            rows += np.sort(rng.choice(np.asarray(own), shots, replace=len(own) < shots)).tolist()
    return rows


def few_items(items: Items, tasks: Sequence[str], shots: int | None, seed: int) -> tuple[Items, dict[str, list[int]]]:
    """The samples with a few training samples of each class, and all others as they are.

    :param items: samples with their splits.
    :param tasks: names of the tasks.
    :param shots: training samples per class and task; None takes all.
    :param seed: seed of the draw, 0 or more.
    :return: the samples, and by task the places of what was drawn among its training samples; empty for all.
    :raises InputError: if the number is none.
    """
    if shots is None:
        return items, {}
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise InputError(f"shots is a whole number from 1, the training images per class, not {shots!r}")
    kept = [np.flatnonzero(items.split != PARTS.index("train"))]
    chosen: dict[str, list[int]] = {}
    for task in tasks:
        trained = items.of_task(task, "train")
        of_class = {items.text.values[code]: at for code, at in places_by_number(items.text.codes[trained]).items()}
        chosen[task] = places_drawn(sorted(of_class.items()), task, shots, seed)
        kept.append(trained[chosen[task]])
    return items.at(np.concatenate(kept)), chosen
