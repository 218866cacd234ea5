"""How much of the towers a prediction runs, after every recipe's training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mini import IMAGE_BLOCKS, mini
from quick import LESS, needed, slow_but_for_some
from recording import naive

from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.training import recipes

PICTURES = 6

ROUTED = ("lora", "adapter-per-task", "moe-adapters", "s-prompts", "diki")
"""A router sees a picture before its task's module: it goes through the blocks twice, and is embedded once."""

QUERIED = ("l2p", "dualprompt", "coda-prompt")
"""A query is the plain tower's features of a picture, of which prompts are chosen for a second pass from its start."""


class Work:
    """Pictures that are embedded and that each image block works on, and texts that are embedded, seen by no hook: of a
    tower that is watched by one, nothing is shared between passes."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures: list[int] = []
        self.texts: list[int] = []
        self.of_blocks: Counter[int] = Counter()
        convolved, read = F.conv2d, F.embedding

        def conv2d(x: torch.Tensor, *others: Any, **how: Any) -> torch.Tensor:
            self.pictures.append(len(x))
            return convolved(x, *others, **how)

        def embedding(tokens: torch.Tensor, *others: Any, **how: Any) -> torch.Tensor:
            self.texts.append(len(tokens))
            return read(tokens, *others, **how)

        monkeypatch.setattr(F, "conv2d", conv2d)
        monkeypatch.setattr(F, "embedding", embedding)
        for number, layer in enumerate(image_blocks(model.clip.visual).layers):
            layer.mlp.__class__ = self._counting(number, type(layer.mlp))

    def _counting(self, number: int, kind: Any) -> type:
        def forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
            self.of_blocks[number] += len(x)
            return kind.forward(mlp, x)

        return type(kind.__name__, (kind,), {"forward": forward})

    def clear(self) -> None:
        self.pictures, self.texts = [], []
        self.of_blocks.clear()


@pytest.mark.parametrize("recipe", slow_but_for_some(recipes.list(kind="classes")))
def test_a_prediction_embeds_its_pictures_once_and_no_text_that_is_known(recipe, tiny_benchmark, monkeypatch):
    model = mini()
    options = LESS.get(recipe, {}) | needed(recipe, tiny_benchmark)
    strategy = naive(model, recipes.build(recipe, model=model, **options), lr=1e-3)
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
    space = tiny_benchmark.label_space
    model.set_label_space(space).eval()  # which forgets the texts that it knew
    work = Work(model, monkeypatch)
    dataset = tiny_benchmark.test_stream[1].dataset
    pictures = torch.stack([dataset[row][0] for row in range(PICTURES)])
    embedded = [PICTURES] * (1 + (recipe in QUERIED))
    most = PICTURES * (1 + (recipe in (*ROUTED, *QUERIED)))
    with torch.no_grad():
        cold = model(pictures, 1)
        prompts = sum(len(space.prompts()[c]) for c in space.tasks[1])
        assert work.pictures == embedded
        assert max(work.of_blocks.values()) <= most
        # One module's texts, or those of every module that a picture was sent to.
        assert sum(work.texts) <= prompts * (1 + len(space.tasks))
        work.clear()
        warm = model(pictures, 1)
    assert work.pictures == embedded and work.texts == []
    assert max(work.of_blocks.values()) <= most and len(work.of_blocks) <= IMAGE_BLOCKS
    assert torch.equal(warm, cold)
