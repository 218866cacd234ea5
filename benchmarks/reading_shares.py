"""What a batch costs that several processes read in shares, against one that each of them reads whole.

    python benchmarks/reading_shares.py --processes 2

Processor time of one of the processes, its threads included, by image of the batch: to decode and transform a JPEG
file of 500 x 375 pixels, to scale and normalise a picture that lies in memory as a tensor of the model's size, and to
send and receive pictures of the model's size. A share costs its part of the first and the last; the median of seven
rounds.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from avalanche_vlm._ranks import Ranks
from avalanche_vlm.benchmarks.transforms import ImageTransform

SIZE, BATCH, ROUNDS = 224, 64, 7


def by_image(work: Callable[[], Any]) -> float:
    """Milliseconds of processor time for each image of a batch."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times[1:]) / BATCH


def jpeg() -> bytes:
    """A photo's bytes, as far as a decoder is concerned."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def one_of(rank: int, processes: int, meeting: Path, said: Any) -> None:
    """One of the processes: the first one tells."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    ranks = Ranks()
    shares = [ranks.share(BATCH, of) for of in range(processes)]
    counts = [share.stop - share.start for share in shares]
    own = torch.zeros(counts[rank], 3, SIZE, SIZE)
    sent = by_image(lambda: ranks.rows(own, counts))
    dist.destroy_process_group()
    if rank == 0:
        said.send(sent)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    processes = parser.parse_args().processes
    torch.set_num_threads(1)
    transform = ImageTransform(SIZE, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    file, held = jpeg(), torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    decoded = by_image(lambda: [transform(Image.open(io.BytesIO(file))) for _ in range(BATCH)])
    scaled = by_image(lambda: [transform(held) for _ in range(BATCH)])
    context = multiprocessing.get_context("spawn")
    ear, mouth = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        running = [
            context.Process(target=one_of, args=(rank, processes, Path(folder) / "meeting", mouth))
            for rank in range(processes)
        ]
        for process in running:
            process.start()
        sent = ear.recv()
        for process in running:
            process.join()
    print(f"decoded {decoded:.2f} ms, scaled {scaled:.2f} ms, sent and received {sent:.2f} ms")
    print(f"files: {decoded / (decoded / processes + sent):.2f} times as fast in shares; tensors: "
          f"{scaled / (scaled / processes + sent):.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
