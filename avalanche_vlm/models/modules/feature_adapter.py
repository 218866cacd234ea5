"""A residual adapter on image features, and its place in a VLM's image path."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.memory.rows import whole


class FeatureAdapter(nn.Module):
    """``x + W x``, or ``x + U relu(V x)`` with a bottleneck; ``W`` and ``U`` start at zero, which changes nothing.

    The linear form has the width of RAPF's adapter (arXiv 2407.14143), written as a residual so that weight decay
    pulls towards the pretrained features instead of towards zero; the bottleneck follows CLIP-Adapter (arXiv
    2110.04544), whose output is added in part, here in full.

    :param width: numbers per feature, at least 1.
    :param bottleneck: inner width, at least 1; None for the linear form.
    :raises InputError: for a width below 1.

    >>> x = torch.eye(3)
    >>> bool((FeatureAdapter(3)(x) == x).all() and (FeatureAdapter(3, bottleneck=2)(x) == x).all())
    True
    """

    def __init__(self, width: int, *, bottleneck: int | None = None) -> None:
        super().__init__()
        for name, value in (("width", width), ("bottleneck", bottleneck)):
            if value is not None:
                whole(value, 1, f"the {name} of a feature adapter")
        self.width = width
        self.down = None if bottleneck is None else nn.Linear(width, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck or width, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adapt unit-length features ``[B, D]``; the result ``[B, D]`` is not normalised."""
        return x + self.change(x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to unit-length features ``[B, D]``."""
        return self.up(x if self.down is None else F.relu(self.down(x)))


class AdapterPath(nn.Module):
    """What stands in a :class:`~avalanche_vlm.models.VLM`'s image path: every image's features go through the adapter.

    :param adapter: makes features of unit-length features.
    """

    def __init__(self, adapter: FeatureAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]``, not normalised, of the plain tower's unit-length features ``[B, D]``."""
        return self.adapter(features)

    def forward(self, encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]`` in the direction of :meth:`adapt`'s, and as long as the plain ones where the adapter
        changes nothing: an adapter that has learned nothing leaves the model as it was, bit for bit."""
        plain = encode(images)
        length = plain.norm(dim=-1, keepdim=True)
        return plain + length * self.adapter.change(F.normalize(plain, dim=-1))
