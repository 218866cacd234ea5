"""Pictures per second of the picturebook's renderer on one core: ``python benchmarks/render.py``."""

from __future__ import annotations

import statistics
import time

import numpy as np

from avalanche_vlm.benchmarks.picturebook.render import render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import sample_scenes

N, ROUNDS = 4096, 7


def main() -> None:
    rng = np.random.default_rng(0)
    drawn = sample_scenes(rng, N)
    render(drawn[:64], rng)
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        to_uint8(render(drawn, rng))
        rates.append(N / (time.process_time() - started))
    print(f"{statistics.median(rates):.0f} pictures/s of CPU time (median of {ROUNDS} times {N})")


if __name__ == "__main__":
    main()
