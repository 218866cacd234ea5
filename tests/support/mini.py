"""A CLIP as deep as the shipped one and a sixteenth as costly, for tests that train it again and again, one as shallow
as recipes allow; and a small stream whose test sets are unbalanced."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from open_clip.model import CLIP

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.models import VLM, from_open_clip, tiny

WIDTH, IMAGE_BLOCKS, TEXT_BLOCKS = 32, 4, 3


def mini(
    freeze: Iterable[str] = ("scale",),
    image_blocks: int = IMAGE_BLOCKS,
    text_blocks: int = TEXT_BLOCKS,
    patch_size: int = 8,
) -> VLM:
    """A model with random weights that reads the picturebook: 32 pixels, the shipped model's words."""
    tokenizer = tiny.build_tokenizer()
    vision = {"image_size": 32, "patch_size": patch_size, "width": WIDTH, "layers": image_blocks, "head_width": 16}
    text = {"width": WIDTH, "heads": 2, "layers": text_blocks, "context_length": tokenizer.context_length}
    torch.manual_seed(0)
    clip = CLIP(WIDTH, vision, {**text, "vocab_size": tokenizer.vocab_size})
    model = from_open_clip(clip, tokenizer, image_size=32, mean=tiny.MEAN, std=tiny.STD, name="mini")
    return model.unfreeze(*model.frozen).freeze(*freeze)


def shallow() -> VLM:
    """Half of that again, with no block more than the most demanding recipe asks for, and four patches a picture."""
    return mini(image_blocks=3, text_blocks=2, patch_size=16)


def unbalanced(benchmark: VLMBenchmark, visible: str = "task") -> VLMBenchmark:
    """The same stream, where of every other class only two test samples are left."""

    def thinned(data):
        seen: dict[int, int] = {}
        kept = []
        for i, y in enumerate(map(int, data.targets)):
            seen[y] = seen.get(y, 0) + 1
            if y % 2 == 0 or seen[y] <= 2:
                kept.append(i)
        return data.subset(kept)

    return VLMBenchmark(
        benchmark.name,
        benchmark.kind,
        [experience.dataset for experience in benchmark.train_stream],
        [thinned(experience.dataset) for experience in benchmark.test_stream],
        label_space=benchmark.label_space.with_visible(visible),
        task_names=benchmark.task_names,
    )
