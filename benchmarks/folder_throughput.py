"""Images a second out of a folder and out of a tar, by processes, beside torchvision's ``ImageFolder``.

    python benchmarks/folder_throughput.py --workers 0 1 2 4

The same JPEG files, batch size, shuffling and torch loader: once through ``image_folder_stream``, as a training reads
them, once through ``tar_stream`` from a tar of them, and once through torchvision's ``ImageFolder`` with open_clip's
transform, which makes the same numbers of a picture as ours does. The three take turns, epoch by epoch. Of the clock on
the wall, which wants a machine where nothing else runs, seconds count from the first batch on; of the processors, all
that this process and its workers took, their start too. A ratio is the median over the rounds of ours by theirs, in
images a second.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jpeg_draft import MEAN, STD, picture
from open_clip.transform import image_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from avalanche_vlm.benchmarks import image_folder_stream
from avalanche_vlm.benchmarks.sources.webdataset import tar_stream
from avalanche_vlm.benchmarks.transforms import ImageTransform


def files(root: Path, number: int, side: int) -> None:
    """A folder of two classes in a training and a test split."""
    rng = np.random.default_rng(0)
    for i in range(number):
        split = "train" if i >= 4 else "test"
        folder = root / split / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(side, side, rng).save(folder / f"{i:06d}.jpg", quality=90)


def packed(root: Path) -> Path:
    """A tar with the training pictures of a folder."""
    path = root / "train.tar"
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(sorted((root / "train").rglob("*.jpg"))):
            label = ("cat", "dog").index(image.parent.name)
            for end, content in (("jpg", image.read_bytes()), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{number:08d}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def processor() -> float:
    """Seconds of processors that this process and its ended workers have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def epoch(loader: DataLoader[Any]) -> tuple[float, float]:
    """Images a second of the clock and of the processors."""
    began, whole = processor(), 0
    batches = iter(loader)
    whole += len(next(batches)[0])
    mark, seen = time.perf_counter(), 0
    for images, *_ in batches:
        seen += len(images)
    seconds = time.perf_counter() - mark
    del batches  # which ends the workers
    assert seen
    return seen / seconds, (whole + seen) / (processor() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transform, theirs = ImageTransform(224, MEAN, STD), image_transform(224, False, MEAN, STD)
    with tempfile.TemporaryDirectory() as folder:
        files(Path(folder), options.images, options.side)
        shown = {"train_transform": transform, "eval_transform": transform, "check": "none"}
        ours = image_folder_stream(folder, **shown).train_stream[0].dataset
        tar = tar_stream(packed(Path(folder)), test_fraction=0.01, **shown).train_stream[0].dataset
        sets = {"folder": ours, "tar": tar, "torchvision": ImageFolder(str(Path(folder) / "train"), theirs)}
        assert torch.equal(ours[7][0], sets["torchvision"][7][0])
        print("| processes | of | images a second | ratio | images a second of a processor | ratio |")
        print("|---|---|---|---|---|---|")
        for workers in options.workers:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sets}
            for _ in range(options.rounds):
                for name, data in sets.items():
                    found[name].append(epoch(DataLoader(data, 32, shuffle=True, num_workers=workers)))
            for name, rates in found.items():
                cells = []
                for which in (0, 1):
                    ratios = [one[which] / other[which] for one, other in zip(rates, found["torchvision"], strict=True)]
                    rate = statistics.median(of[which] for of in rates)
                    cells += [f"{rate:.0f}", f"{statistics.median(ratios):.3f}"]
                print(f"| {workers} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
