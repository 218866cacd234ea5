"""Memory and time of a tar of 10 GiB that is read where it lies.

    python benchmarks/tar_stream.py --gib 10

The tar has members of 1 MiB each, a small JPEG file and a hole behind it, so that it takes little room on the disk.
Measured are the seconds that its headers take, and those of images that are drawn from all of it; memory is what the
process had at most (``ru_maxrss``), more than before the tar was opened.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jpeg_draft import picture

from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.webdataset import tar_rows

MEMBER = 2**20


def sparse_tar(path: Path, members: int) -> None:
    """A tar of so many samples, each a JPEG file of 1 MiB and a class."""
    out = io.BytesIO()
    picture(160, 160, np.random.default_rng(0)).save(out, "JPEG", quality=80)
    with path.open("wb") as file:
        for number in range(members):
            for end, content, size in (("jpg", out.getvalue(), MEMBER), ("cls", str(number % 10).encode(), 512)):
                info = tarfile.TarInfo(f"{number:08d}.{end}")
                info.size = size if end == "jpg" else len(content)
                file.write(info.tobuf(tarfile.GNU_FORMAT) + content)
                file.seek(size - len(content), os.SEEK_CUR)
        file.write(bytes(1024))


def peak() -> float:
    """MiB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=10)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, members = Path(folder, "large.tar"), options.gib * 1024
        sparse_tar(path, members)
        known = path.stat()
        print(f"{known.st_size / 2**30:.2f} GiB, of which {known.st_blocks / 2048:.0f} MiB on the disk")
        before, mark = peak(), time.perf_counter()
        rows = [fields["image"] for _, fields in tar_rows(path, Problems("raise"))]
        print(f"{len(rows)} samples listed in {time.perf_counter() - mark:.2f} s, {peak() - before:.1f} MiB")
        images = ImageFiles([path.parent / row for row in rows])
        drawn = random.Random(0).sample(range(len(images)), min(options.images, len(images)))
        images[drawn[0]]
        mark = time.perf_counter()
        for row in drawn:
            images[row]
        seconds = time.perf_counter() - mark
        print(f"{len(drawn) / seconds:.0f} images a second in any order, {peak() - before:.1f} MiB")


if __name__ == "__main__":
    main()
