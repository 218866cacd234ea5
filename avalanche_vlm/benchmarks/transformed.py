"""A data set with a transform on its inputs: what held-out sets are read as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

    def content_of(self, index: int) -> Any:
        """What the raw sample is, for a comparison of contents.

        :param index: place of the sample.
        """
        return self.dataset.content_of(index)
