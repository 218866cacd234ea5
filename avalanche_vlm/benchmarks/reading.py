"""Reading a data set from beginning to end, apart from training."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader


def ordered_batches(dataset: Any, batch_size: int) -> DataLoader:
    """Minibatches of a data set in its order, which leave the global random generator alone.

    Every loader draws a seed for its processes, one that does not shuffle as well. torch's default takes it from the
    global generator, so that whoever reads data in between would change the order of what is trained next.

    :param dataset: samples by number, with a length.
    :param batch_size: samples per minibatch, at least 1; the last one may be smaller.

    >>> state = torch.get_rng_state()
    >>> [batch.tolist() for batch in ordered_batches([1, 2, 3], 2)]
    [[1, 2], [3]]
    >>> torch.equal(state, torch.get_rng_state())
    True
    """
    return DataLoader(dataset, batch_size, generator=torch.Generator())
