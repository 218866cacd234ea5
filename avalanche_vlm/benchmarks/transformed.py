"""A data set with a transform on its inputs: what held-out sets are read as."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.scenario import ImageDataset, PairDataset


class Transformed(Dataset):
    """A data set with a transform on its inputs.

    :param dataset: data set of raw pictures, or of pictures with captions.
    :param transform: transform of a picture, or of a picture with its caption.
    """

    def __init__(self, dataset: ImageDataset | PairDataset, transform: Callable) -> None:
        self.dataset = dataset
        self.transform = transform
        self.targets = dataset.targets

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x, y = self.dataset[index]
        return self.transform(x), y

    def contents_of(self, rows: Sequence[int] | np.ndarray) -> Iterable[Any]:
        """What raw samples are, for a comparison of contents.

        :param rows: places of the samples.
        """
        return self.dataset.contents_of(rows)
