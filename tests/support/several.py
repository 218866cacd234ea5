"""A small stream in which images have several captions, and captions several images."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks import HeldOutSet, ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.picturebook import captions, scenes
from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator
from avalanche_vlm.benchmarks.picturebook.render import render, to_uint8
from avalanche_vlm.benchmarks.picturebook.styles import STYLES
from avalanche_vlm.benchmarks.picturebook.tasks import generator
from avalanche_vlm.benchmarks.scenario import PairDataset, PairTransform, as_experience_data
from avalanche_vlm.benchmarks.transformed import Transformed
from avalanche_vlm.models import VLM


def rows(n: int, style: str, part: str) -> tuple[torch.Tensor, list[str]]:
    """Of every four rows three are of one image with captions of its own, and one of another image that shares a
    caption with it."""
    rng = generator(0, "several", style, part)
    drawn = scenes.sample_scenes(rng, n)
    pictures = torch.from_numpy(to_uint8(STYLES[style](render(drawn, rng), rng)))
    texts = captions.caption(drawn)
    images = [row - row % 4 if row % 4 < 3 else row for row in range(n)]
    return pictures[images], [texts[row - 1 if row % 4 == 3 else row] for row in range(n)]


def several_captions(model: VLM, n_train: int = 16, n_test: int = 8) -> VLMBenchmark:
    """Two tasks."""
    identities, transform = Identities(), model.transforms.eval
    as_pairs = PairTransform(transform, model.tokenizer)
    train, test = (
        [
            as_experience_data(PairDataset(*rows(n, style, part), identities), as_pairs, as_pairs, task)
            for task, style in enumerate(("sketch", "night"))
        ]
        for part, n in (("train", n_train), ("test", n_test))
    )
    held_out: Dataset = Transformed(PairDataset(*rows(n_test, "graffiti", "held-out")), as_pairs)
    pictures, texts = rows(n_train, "graffiti", "reference")
    return VLMBenchmark(
        "several captions",
        "pairs",
        train,
        test,
        task_names=("sketch", "night"),
        held_out=[HeldOutSet("captions", held_out)],
        reference=ReferencePairs(pictures, tuple(texts), transform),
        generator=PicturebookGenerator(),
    )
