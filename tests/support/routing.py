"""Features of tasks that routers have to tell apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F

WIDTH = 24


def task(seed: int, n: int = 400, classes: int = 4, draw: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features around class centres that share a direction, the task's own."""
    generator = torch.Generator().manual_seed(seed)
    base = 3 * torch.randn(WIDTH, generator=generator)
    centres = base + torch.randn(classes, WIDTH, generator=generator)
    generator.manual_seed(1000 * seed + draw)
    y = torch.randint(classes, (n,), generator=generator)
    return F.normalize(centres[y] + 0.3 * torch.randn(n, WIDTH, generator=generator), dim=1), y
