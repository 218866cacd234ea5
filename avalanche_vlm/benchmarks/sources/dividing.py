"""Which images of a data set train and which test, and which classes a task takes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch

from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, joined

SHARE, SEED = 0.8, 42
"""ZSCL's split of data sets that are published without one (arXiv 2303.06628)."""


def seeded_split(n: int, share: float = SHARE, seed: int = SEED) -> tuple[list[int], list[int]]:
    """The places of training and test images as ``torch.utils.data.random_split`` draws them.

    :param n: number of images.
    :param share: share of the images that train, in (0, 1).
    :param seed: seed of torch's generator.

    >>> train, test = seeded_split(8677)
    >>> train[:3], test[:3]
    ([8512, 5748, 7753], [6301, 3455, 7205])
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: int(share * n)], order[int(share * n) :]


def train_and_test(found: LabelledSet) -> tuple[LabelledPart, LabelledPart]:
    """The training and the test images of a data set; one without a split is split as :func:`seeded_split` does.

    :param found: what was read of the data set.
    """
    if "all" not in found.parts:
        return found.parts["train"], found.parts["test"]
    whole = found.parts["all"]
    train, test = seeded_split(len(whole))
    return whole.at(train), whole.at(test)


def test_images(found: LabelledSet) -> LabelledPart:
    """The test images of a data set, those of all its steps where it has a test part for each (``test 0``).

    :param found: what was read of the data set.
    """
    if "all" in found.parts:
        return train_and_test(found)[1]
    return reduce(joined, (part for name, part in found.parts.items() if name.partition(" ")[0] == "test"))


def with_classes(train: LabelledPart, test: LabelledPart, classes: Sequence[int]) -> tuple[LabelledPart, LabelledPart]:
    """The images of some classes, which are numbered anew in the order given.

    :param train: training images of all classes.
    :param test: test images of all classes.
    :param classes: ids of the classes.
    """
    return _of(train, classes), _of(test, classes)


def _of(part: LabelledPart, classes: Sequence[int]) -> LabelledPart:
    place = {old: new for new, old in enumerate(classes)}
    rows = np.flatnonzero(np.isin(part.labels, list(classes)))
    chosen = part.at(rows)
    return LabelledPart(chosen.images, np.asarray([place[old] for old in chosen.labels.tolist()], dtype=np.int64))
