"""What it saves, and what it changes, to decode JPEG files no larger than a model's input takes (``jpeg_draft``).

    python benchmarks/jpeg_draft.py

Photographs are not drawn here: the files are noise whose power falls with the square of its frequency, as that of
photographs does, saved at quality 90 with colours at half resolution. Each is read and prepared for a model, with every
pixel decoded and by draft in turn; seconds are of processor time. The difference is that of the model's input, in steps
of 8 bits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from avalanche_vlm.benchmarks.sources.assemble import drafted
from avalanche_vlm.benchmarks.sources.images import read_image
from avalanche_vlm.benchmarks.transforms import ImageTransform

MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)


def picture(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Noise with a photograph's spectrum, full contrast."""
    across, down = np.fft.rfftfreq(width) * width, np.fft.fftfreq(height)[:, None] * height
    radius = np.maximum(1, np.hypot(across, down))
    found = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random(radius.shape))
        values = np.fft.irfft2(phase / radius, s=(height, width))
        found.append(np.clip((values / values.std()) * 50 + 128, 0, 255))
    return Image.fromarray(np.stack(found, 2).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print("| file | input | ms, every pixel | ms, by draft | times as fast | mean difference | 99 % below | largest |")
    print("|---|---|---|---|---|---|---|---|")
    for width, height, size in ((640, 480, 224), (1280, 960, 224), (4000, 3000, 224), (1280, 960, 336)):
        transform = ImageTransform(size, MEAN, STD)
        spent, apart = [0.0, 0.0], []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.pictures):
                path = Path(folder) / f"{number}.jpg"
                picture(width, height, rng).save(path, quality=90)
                read = []
                for way, draft in enumerate((None, drafted(transform))):
                    mark = time.process_time()
                    read.append(transform(read_image(path, draft)))
                    spent[way] += time.process_time() - mark
                apart.append(
                    (transform.to_uint8(read[0]).float() - transform.to_uint8(read[1]).float()).abs().flatten()
                )
        steps = torch.cat(apart)
        plain, fast = (1000 * of / options.pictures for of in spent)
        print(
            f"| {width} x {height} | {size} | {plain:.1f} | {fast:.1f} | {plain / fast:.1f} | {steps.mean():.2f} | "
            f"{np.quantile(steps.numpy(), 0.99):.0f} | {steps.max():.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
