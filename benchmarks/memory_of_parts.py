"""What a step on image-text pairs takes in memory: a whole batch against one in parts, and blocks that keep nothing.

    python benchmarks/memory_of_parts.py

A process per case. A batch of N times 16 pairs, in one part or in N (``accumulate``), or with ``grad_checkpointing``:
resident memory above what there was before the step, at its highest, and processor time of the second step. The
model is a CLIP of 8 blocks of width 256 in either tower, with random weights and pictures of 64 pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from apart import run_all
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from resident import peak_above

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.sparing import encoding_in, keeping_no_activations
from avalanche_vlm.training.criteria import criterion_for

PART, TIMES = 16, (1, 2, 4, 8)
HOW = ("whole", "in parts", "blocks once more")


def one(times: int, how: str) -> dict[str, Any]:
    """A case, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vision = {"image_size": 64, "patch_size": 8, "width": 256, "layers": 8, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 8}
    clip = CLIP(256, vision, text)
    model = from_open_clip(clip, SimpleTokenizer(), image_size=64, mean=[0.5] * 3, std=[0.5] * 3, name="eight blocks")
    model.unfreeze("image", "text").train()
    n = PART * times
    words = model.tokenizer([f"a photo of number {i} " + "very " * (i % 40) + "near" for i in range(n)])
    pairs, y, criterion = ImageText(torch.randn(n, 3, 64, 64), words), torch.arange(n), criterion_for("pairs", model)

    def step() -> float:
        began = time.process_time()
        model.zero_grad()
        criterion(model(pairs), y).backward()
        return time.process_time() - began

    parts = times if how == "in parts" else 1
    with encoding_in(model, parts), keeping_no_activations(model, how == HOW[2]):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with peak_above() as most:
            step()
        seconds = step()
    return {"times": times, "how": how, "megabytes": most[0], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=json.loads)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = [(times, how) for how in HOW for times in TIMES if how != "in parts" or times > 1]
        jobs = {Path(folder, f"{times}-{how}.json"): (times, how) for times, how in cases}
        found = run_all(__file__, jobs, processes=1)
    print("| pairs | how | MB | s |\n|---|---|---|---|")
    for case in found:
        print(f"| {PART * case['times']} | {case['how']} | {case['megabytes']:,.0f} | {case['seconds']:.1f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
