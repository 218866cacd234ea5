"""Batches that a tower encodes in parts, of which one at a time has its activations in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from avalanche_vlm._host import sliced
from avalanche_vlm._rows import once_more


def in_parts(encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, parts: int) -> torch.Tensor:
    """Features of a batch, encoded part by part. No part keeps its activations: in the backward pass, when the gradient
    of all features is known, each is encoded once more and gives its share.

    A loss may compare all with all, as a contrastive one does, and the gradient is that of the whole batch: this is
    gradient caching (GradCache, arXiv 2101.06983), made of torch's checkpoints. It costs a further forward pass.

    :param encode: inputs ``[n, ...]`` to features ``[n, D]``, each from its own input alone.
    :param inputs: the batch ``[B, ...]``.
    :param parts: number of parts, at most B of them; with 1 nothing is special.
    :return: features ``[B, D]``.

    >>> in_parts(torch.nn.Identity(), torch.eye(3, requires_grad=True), 2).sum().item()
    3.0
    """
    if parts == 1 or len(inputs) < 2 or not torch.is_grad_enabled():
        return encode(inputs)
    size = -(-len(inputs) // parts)
    rows = (slice(start, start + size) for start in range(0, len(inputs), size))
    # Of several processes each encodes its share of every part.
    encoded = (checkpoint(encode, sliced(inputs, part), use_reentrant=False, context_fn=once_more) for part in rows)
    return torch.cat(list(encoded))
