"""Saved models for the tests that ask them, and folders of pictures to ask them about."""

from __future__ import annotations

from pathlib import Path

import torch
from real_files import picture, save, truncate

from avalanche_vlm.artifacts import save_model
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.models import VLM, create_vlm

CLASSES = ("star", "heart", "moon", "cup", "flower")


def tiny_with_classes() -> VLM:
    """The shipped model with a label space."""
    return create_vlm("tiny").set_label_space(LabelSpace.from_names(CLASSES)).eval()


def lora_of(model: VLM) -> None:
    """Two tasks' LoRA that change something, behind a router that places samples in either of them or in none."""
    from avalanche_vlm.training import recipes

    (plugin,) = recipes.build("lora", model=model, rank=2)
    for seed in (0, 1):
        name = plugin.pool.add_next()
        generator = torch.Generator().manual_seed(seed)
        for parameter in plugin.pool.parameters(name):
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        images = torch.randn(40, 3, 32, 32, generator=generator) * 0.2 + (seed - 0.5)
        with model.evaluating():
            features = model.encode_image_plain(images)
        plugin.routed.learn(name, features, torch.arange(40) % 4)
        plugin.routed.of_label[seed] = name
    model.eval()


def saved_tiny(folder: Path) -> Path:
    """The shipped model, saved."""
    save_model(folder, tiny_with_classes())
    return folder


def saved_lora(folder: Path) -> Path:
    """A model that chooses between two modules, saved."""
    model = tiny_with_classes()
    lora_of(model)
    save_model(folder, model, recipe="lora", options={"rank": 2})
    return folder


def pictures_in(folder: Path, good: int = 5, bad: int = 1) -> list[Path]:
    """Readable pictures and truncated ones, in folders below one another."""
    paths = [save(folder / ("deep/er" if i % 2 else "") / f"{i}.png", picture(i)) for i in range(good)]
    return paths + [truncate(save(folder / f"bad {i}.png", picture(100 + i))) for i in range(bad)]
