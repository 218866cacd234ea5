"""Features in the place of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class FeaturePath(nn.Module):
    """What stands in the image path of a :class:`~avalanche_vlm.models.VLM` whose image tower is frozen: features that
    were computed before pass, images go through the tower.

    A training loop that is fed features computes every image once, and stays the loop that it is.

    >>> FeaturePath()(lambda images: images.mean((2, 3)), torch.ones(1, 3)).tolist()
    [[1.0, 1.0, 1.0]]
    """

    def forward(self, encode: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]``.

        :param encode: the tower, from images to features.
        :param x: images ``[B, 3, H, W]``, or features ``[B, D]``.
        """
        return x if x.ndim == 2 else encode(x)
