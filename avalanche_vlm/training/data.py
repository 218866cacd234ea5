"""Reading an experience's data outside the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM


def experience_batches(strategy: Any, batch_size: int = 256) -> Iterator[list]:
    """The current experience under its *evaluation* transforms, in order, on the strategy's device.

    :return: minibatches ``[x, y, task_label]``.
    """
    loader = DataLoader(strategy.experience.dataset.eval(), batch_size=batch_size)
    for batch in loader:
        yield [part.to(strategy.device) for part in batch]


def images_of(x: Any) -> torch.Tensor:
    """The images of a class-labelled or of an image-text batch."""
    return x if isinstance(x, torch.Tensor) else x.image


def reference_features(model: VLM, reference: ReferencePairs, batch_size: int = 256) -> torch.Tensor:
    """Unit-length features of the reference pictures by the plain image tower ``[N, D]``."""
    with model.evaluating():
        parts = [
            model.encode_image_plain(reference.batch(rows).to(model.device))
            for rows in torch.arange(len(reference)).split(batch_size)
        ]
    return torch.cat(parts)
