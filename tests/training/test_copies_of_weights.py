"""How many copies of the weights are alive at a time while two tasks are trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live import Live
from open_clip.model import CLIP
from quick import needed

from avalanche_vlm.models import VLM, from_open_clip, tiny
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.criteria import criterion_for

MOST = {"fine-tune": 4, "lwf": 4, "wise-ft": 5, "zscl": 6.5, "ewc-clip": 6.5, "gift": 7, "magmax": 6, "ties": 8}
"""Copies that a recipe may take. Weights, gradient and AdamW's two moments are 4; while it is watched, autograd adds
gradients of two losses in memory of its own, which is one more."""

OPTIONS: dict[str, dict[str, Any]] = {
    "lwf": {"images": "batch"},
    "zscl": {"batch_size": 8, "interval": 1},
    "ewc-clip": {"samples": 4},
    "gift": {"n": 8, "batch_size": 8},
}


def embedding_heavy() -> VLM:
    """A model of 4 MB, nearly all of which is the embedding of tokens: the one tensor is as much as the model."""
    tokenizer = tiny.build_tokenizer()
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16}
    text = {"width": 64, "heads": 2, "layers": 1, "context_length": tokenizer.context_length, "vocab_size": 16384}
    model = from_open_clip(CLIP(16, vision, text), tokenizer, image_size=32, mean=tiny.MEAN, std=tiny.STD, name="heavy")
    return model.unfreeze("image", "text")


@pytest.mark.parametrize("recipe", MOST)
def test_no_more_copies_of_the_weights_are_alive_than_a_recipe_needs(recipe, tiny_benchmark):
    model = embedding_heavy()
    one = sum(p.nbytes for p in model.parameters())
    options = OPTIONS.get(recipe, {}) | needed(recipe, tiny_benchmark)
    with Live(model.parameters(), least=1 << 20) as live:
        strategy = VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.trainable_parameters().values(), lr=1e-4, fused=True),
            criterion=criterion_for("classes", model),
            train_mb_size=32,
            plugins=recipes.build(recipe, model=model, **options),
            evaluator=None,
        )
        for experience in tiny_benchmark.train_stream:
            strategy.train(experience)
    assert live.peak < MOST[recipe] * one
