"""One labelled data set as a stream of tasks with classes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.sources.class_names import Chosen
from avalanche_vlm.benchmarks.sources.items import Items
from avalanche_vlm.benchmarks.sources.ordering import sorted_labels
from avalanche_vlm.benchmarks.sources.text import filled_lines
from avalanche_vlm.errors import InputError

ClassOrder = Sequence[str] | str | Path
"""Labels or names of all classes in the order in which tasks bring them; ``"sorted"``; or a file with one a line."""

SORTED = "sorted"
"""The class order of the ids: numbers by size, all else by the alphabet."""


def split_classes_of(
    items: Items, number: int, order: ClassOrder | None, seed: int, names: Chosen
) -> tuple[Items, list[str], list[str]]:
    """Give the classes of one task to several, as evenly as they can be: of 10 classes, 3 tasks get 4, 3 and 3.

    :param items: samples of one task.
    :param number: number of tasks that are made, from 1 to the number of classes.
    :param order: order of the classes; None draws it from the seed.
    :param seed: seed of the draw, 0 or more.
    :param names: names of the classes, which an order may use in the place of their labels.
    :return: the samples with their tasks, the names of the tasks, and the classes in their order.
    :raises InputError: if the number or the order does not fit the classes.
    """
    if len(tasks := items.tasks()) > 1:
        raise InputError(f"split_classes splits one task, and the data have {len(tasks)}: {', '.join(tasks)}")
    texts = sorted_labels(items.texts())
    if isinstance(number, bool) or not 1 <= number <= len(texts):
        raise InputError(f"split_classes is a number from 1 to {len(texts)}, the number of classes, not {number!r}")
    if order is None:
        chosen = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    else:
        chosen = texts if order == SORTED else _given(order, texts, names)
    parts = [part.tolist() for part in np.array_split(np.array(chosen, dtype=object), number)]
    titles = [f"classes {n}" for n in range(1, number + 1)]
    task_of = {text: title for title, part in zip(titles, parts, strict=True) for text in part}
    called = [names.names.get(text, text) for text in chosen]
    of_text = items.text.recoded(task_of.__getitem__)
    return replace(items, task=of_text), titles, called


def _given(order: ClassOrder, texts: Sequence[str], names: Chosen) -> list[str]:
    if isinstance(order, str | Path):
        where, listed = str(order), filled_lines(Path(order))
    else:
        where, listed = "class_order", [str(name).strip() for name in order]
    by_name = {names.names.get(text, text): text for text in texts}
    chosen = [name if name in set(texts) else by_name.get(name, "") for name in listed]
    for name, text in zip(listed, chosen, strict=True):
        if not text:
            raise InputError(f"{where} has the class {name!r}, which the data do not have")
        if chosen.count(text) > 1:
            raise InputError(f"{where} has the class {name!r} more than once")
    if missing := [text for text in texts if text not in set(chosen)]:
        raise InputError(f"{where} lacks the class {missing[0]!r}")
    return chosen


def divided(
    items: Items,
    tasks: Sequence[str],
    number: int | None,
    order: ClassOrder | None,
    seed: int,
    names: Chosen,
) -> tuple[Items, list[str], dict[str, Any]]:
    """Divide the classes of one task among several, where that is asked for.

    :param items: samples with their splits.
    :param tasks: names of the tasks that there are.
    :param number: number of tasks that are made; None leaves all as it is.
    :param order: order of the classes.
    :param seed: seed that draws the order.
    :param names: names of the classes.
    :return: samples, names of the tasks, and what the protocol says of it.
    :raises InputError: if the number or the order does not fit the classes, or there is an order without a number.
    """
    if number is None:
        if order is not None:
            raise InputError("class_order is the order of split_classes, which is not given")
        return items, list(tasks), {}
    divided_items, titles, called = split_classes_of(items, number, order, seed, names)
    drawn = seed if order is None else None
    return divided_items, titles, {"split_classes": number, "class_order": called, "class_order_seed": drawn}
