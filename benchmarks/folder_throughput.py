"""Images a second out of a folder, by processes, beside torchvision's ``ImageFolder``.

    python benchmarks/folder_throughput.py --workers 0 1 2 4

The same JPEG files, the same model transform, batch size, shuffling and torch loader: once through
``image_folder_stream``, as a training reads them, and once through torchvision's ``ImageFolder``. The two take turns,
epoch by epoch, each with its processes started before the clock is; seconds are those of the clock on the wall, since
several processes read, so run it where nothing else runs. The ratio is that of medians, ours by theirs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jpeg_draft import MEAN, STD, picture
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from avalanche_vlm.benchmarks import image_folder_stream
from avalanche_vlm.benchmarks.transforms import ImageTransform


def files(root: Path, number: int, side: int) -> None:
    """A folder of two classes in a training and a test split."""
    rng = np.random.default_rng(0)
    for i in range(number):
        split = "train" if i >= 4 else "test"
        folder = root / split / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(side, side, rng).save(folder / f"{i}.jpg", quality=90)


def epoch(loader: DataLoader[Any]) -> float:
    """Images a second, from the first batch on: the start of processes does not count."""
    batches = iter(loader)
    first = next(batches)
    mark, seen = time.perf_counter(), 0
    for images, *_ in batches:
        seen += len(images)
    assert len(first[0]) and seen
    return seen / (time.perf_counter() - mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transform = ImageTransform(224, MEAN, STD)
    with tempfile.TemporaryDirectory() as folder:
        files(Path(folder), options.images, options.side)
        stream = image_folder_stream(folder, train_transform=transform, eval_transform=transform, check="none")
        ours, theirs = stream.train_stream[0].dataset, ImageFolder(str(Path(folder) / "train"), transform)
        print("| processes | images a second, ours | torchvision's | ratio |\n|---|---|---|---|")
        for workers in options.workers:
            found: tuple[list[float], list[float]] = ([], [])
            for _ in range(options.rounds):
                for rates, data in zip(found, (ours, theirs), strict=True):
                    rates.append(epoch(DataLoader(data, 32, shuffle=True, num_workers=workers)))
            mine, other = map(statistics.median, found)
            print(f"| {workers} | {mine:.0f} | {other:.0f} | {mine / other:.2f} |", flush=True)


if __name__ == "__main__":
    main()
