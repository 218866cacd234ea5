"""Checking the images of a large data set before training: with nothing known by one process and by two, and again with
all of it known; seconds and memory of each, and of a whole stream that is read. The seconds of processors, of all
processes together, are those that other work on the machine changes least.

    python benchmarks/manifest.py --files 100000
    python benchmarks/manifest.py --files 1200000 --known

Every phase is a process of its own. The files are generated JPEGs of 64 x 64 pixels in 100 classes: what is measured is
what a file costs beside its pixels. With ``--known`` the files are empty, in 1,000 classes, and the manifest that knows
them as whole images is written without looking into any: it takes minutes where to decode a million would take an hour,
and a start that finds every file known does the same with either.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from resident import status

CLASSES = 100
STARTS = (
    ("cold, full, one process", "full", 0, 0, "a"),
    ("cold, full, two workers", "full", 2, 0, "b"),
    ("cold, fast, one process", "fast", 0, 0, "c"),
    ("none", "none", 0, 0, "d"),
    ("warm", "full", 0, 0, "b"),
    ("a whole stream, warm", "full", 0, 1, "b"),
    ("a whole stream and the digests of its samples, warm", "full", 0, 2, "b"),
)
"""What is measured: its name, how images are checked, by how many processes, how much is read (:func:`phase`), and the
cache that it finds."""
AGO = 3600
"""Seconds: how old the files say they are."""
MIB = 1 << 20


def generate(root: Path, number: int) -> None:
    """Make the files, each with bytes of its own.

    :param root: folder that gets a folder for each class.
    :param number: number of files.
    """
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"class{label:03d}").mkdir(parents=True)
    for row in range(number):
        path = root / f"class{row % CLASSES:03d}" / f"{row:07d}.jpg"
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((64, 64), Image.Resampling.BILINEAR).save(path, quality=85)
        then = time.time() - AGO
        os.utime(path, (then, then))


def generate_known(root: Path, number: int) -> None:
    """Make empty files, and a manifest that knows each as a whole image with a content of its own.

    :param root: folder that gets a folder for each class.
    :param number: number of files.
    """
    from avalanche_vlm.benchmarks.sources.contents import remember
    from avalanche_vlm.benchmarks.sources.folder import folder_items
    from avalanche_vlm.benchmarks.sources.manifest import DECODED, look_at, manifest_of
    from avalanche_vlm.benchmarks.sources.problems import Problems

    for label in range(10 * CLASSES):
        folder = root / f"class{label:04d}"
        folder.mkdir(parents=True)
        for row in range(label, number, 10 * CLASSES):
            (folder / f"{row:08d}.jpg").touch()
    items, _, _ = folder_items(root, Problems("raise"))
    digests = np.random.default_rng(0).permutation(number) + 1
    found = look_at(items.image.values), np.full(number, DECODED, np.uint8), digests
    later = time.time_ns() + AGO * 10**9  # what was written a moment ago is not kept: it may change again
    remember(manifest_of(root), *found, later, write=True)


def phase(root: Path, check: str, workers: int, whole: int) -> dict[str, float]:
    """One start, in this process.

    :param root: folder of the data set.
    :param check: how its images are checked.
    :param workers: processes that check.
    :param whole: whether a stream is read, and not only checked: 2 with the digests of all its samples that a result
        has.
    """
    from avalanche_vlm.benchmarks.fingerprint import data_of
    from avalanche_vlm.benchmarks.sources.checking import unreadable_files
    from avalanche_vlm.benchmarks.sources.folder import image_folder_stream
    from avalanche_vlm.benchmarks.transforms import ImageTransform

    before = status("VmHWM")  # getrusage's peak is that of the process that started this one, where that was larger
    began, worked = time.perf_counter(), processors()
    if whole:
        transform = ImageTransform(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        shown = {"train_transform": transform, "eval_transform": transform}
        stream = image_folder_stream(root, **shown, check=check, check_workers=workers)
        if whole > 1:
            data_of(stream)
    else:
        paths = [f"{folder}/{name}" for folder in sorted(root.iterdir()) for name in sorted(os.listdir(folder))]
        if unreadable_files(paths, root, check, workers):
            raise SystemExit("a generated file cannot be read")
    seconds, work = time.perf_counter() - began, processors() - worked
    peak = status("VmHWM")
    return {"seconds": seconds, "s of processors": work, "MiB more": (peak - before) / MIB, "peak MiB": peak / MIB}


def processors() -> float:
    """Seconds of processors that this process and those that it has ended have taken."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--known", action="store_true", help="empty files that the manifest knows")
    parser.add_argument("--phase", nargs=4, metavar=("ROOT", "CHECK", "WORKERS", "WHOLE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.phase:
        root, check, workers, whole = asked.phase
        print(json.dumps(phase(Path(root), check, int(workers), int(whole))))
        return
    with tempfile.TemporaryDirectory() as home:
        root = Path(home, "data")
        if asked.known:
            os.environ["AVALANCHE_VLM_CACHE"] = str(Path(home, "b"))
            generate_known(root, asked.files)
        else:
            generate(root, asked.files)
        for name, check, workers, whole, cache in STARTS[3 if asked.known else 0 :]:
            found = json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--phase", str(root), check, str(workers), str(whole)],
                    env={**os.environ, "AVALANCHE_VLM_CACHE": str(Path(home, cache))},
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout.splitlines()[-1]
            )
            figures = ", ".join(f"{value:.2f} {unit}" for unit, value in found.items())
            print(f"{name}: {figures} ({1e6 * found['s of processors'] / asked.files:.1f} us a file)", flush=True)
        size = sum(file.stat().st_size for file in Path(home, "b").rglob("*.safetensors"))
        print(f"the manifest: {size / asked.files:.1f} bytes a file")


if __name__ == "__main__":
    main()
