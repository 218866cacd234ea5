"""Samples that are decoded when they are read and that draw, and what each of several processes reads of them."""

from __future__ import annotations

import random

import numpy as np
import torch
from processes import together
from torch.utils.data import Dataset

from avalanche_vlm import _ranks
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError


class Files:
    """Images that are decoded when they are read, of which some cannot be. Counts how often, in all processes."""

    def __init__(self, number: int, broken=(), error=InputError) -> None:
        self.number, self.broken, self.error = number, broken, error
        self.reads = torch.zeros(number, dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        self.reads[index] += 1
        if index in self.broken:
            raise self.error(f"{index}.png cannot be decoded")
        return torch.full((3, 2, 2), float(index))


class Drawing(Dataset):
    """Samples that draw from all generators, how much depends on the sample; or that draw nothing."""

    def __init__(self, number: int, draws: str = "all", **how) -> None:
        self.images, self.draws = Files(number, **how), draws

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.draws == "all" or (self.draws == "some" and index % 3 == 2):
            image = image + torch.rand(1 + index % 2)[-1] + random.random() + float(np.random.rand())
        text = ImageText(image, torch.full((4,), index))
        return text, index, {"name": f"number {index}", "half": torch.tensor(index / 2, dtype=torch.float16)}


def plain(batches) -> list:
    """What can be sent by a pipe, and compared."""
    return [
        [x.image.tolist(), x.tokens.tolist(), y.tolist(), rest["name"], rest["half"].tolist()] for x, y, rest in batches
    ]


def read_by(processes: int, folder, read, seconds: float = 60) -> list:
    """What each of several processes reads."""

    def work(rank):
        torch.set_num_threads(1)
        with _ranks.training_together(_ranks.found_ranks()):
            return read()

    return together(work, folder / "meeting", processes, seconds, loads=True)
