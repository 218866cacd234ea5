"""What the blocks of both towers give for a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from avalanche_vlm._ranks import alone
from avalanche_vlm.evaluation.blocks import group_by_block
from avalanche_vlm.models.vlm import VLM


def block_modules(model: VLM) -> dict[str, nn.Module]:
    """The modules behind the numbered blocks, ``"image.0"`` and so on: residual blocks of transformers, open_clip's or
    timm's, layers of ResNets, stages of hierarchical towers. A tower without any has none."""
    modules = dict(model.clip.named_modules())
    grouped = group_by_block(f"{name}.weight" for name in modules if name)
    # Parents come before their children.
    outermost = {block: names[0].removesuffix(".weight") for block, names in grouped.items()}
    return {block: modules[name] for block, name in outermost.items() if block.rpartition(".")[2].isdigit()}


@contextmanager
def capturing(model: VLM, n: int, tokens: torch.Tensor | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Take along what the blocks give within a block: features ``[n, width]`` by block, float32, when it has ended.

    Positions are averaged, tokens only as far as the text goes, for which all of them are computed. The first pass of
    ``n`` samples counts: where samples are routed to modules, that is the shared tower's. A block that gave no tensor
    with ``n`` rows is left out.

    :param model: model whose blocks are listened to.
    :param n: number of samples of the batch.
    :param tokens: tokens of the texts ``[n, L]``; None where there are none.
    """
    found: dict[str, torch.Tensor] = {}
    real = None if tokens is None else real_tokens(tokens)

    def keep(block: str, module: nn.Module, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if block in found or not isinstance(output, torch.Tensor) or output.ndim < 2:
            return
        if len(output) != n and output.ndim == 3 and output.shape[1] == n:
            output = output.transpose(0, 1)  # towers that put positions first
        if len(output) == n:
            found[block] = _pooled(output.detach().float(), real if block.startswith("text.") else None)

    handles = [module.register_forward_hook(partial(keep, block)) for block, module in block_modules(model).items()]
    try:
        # A row's own positions, and what stands behind them, are to be there whichever texts it is encoded with.
        with model.whole_texts(), alone():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Which positions a text reaches: all before the run of equal tokens that fills up its row, and the first of
    that run, which is its last token where nothing needed filling or the filling repeats it.

    :param tokens: tokens of B texts ``[B, L]``.
    :return: bool ``[B, L]``, at least one in every row.

    >>> real_tokens(torch.tensor([[1, 7, 2, 0, 0, 0], [1, 7, 8, 9, 5, 2]])).long().tolist()
    [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    """
    same = (tokens == tokens[:, -1:]).long()
    run = same.flip(1).cumprod(1).sum(1)
    return torch.arange(tokens.shape[1], device=tokens.device) <= (tokens.shape[1] - run)[:, None]


def _pooled(output: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    if output.ndim == 2:
        return output
    if output.ndim > 3:  # convolutions: channels before places
        return output.flatten(2).mean(2)
    # Prompts may have lengthened the row.
    if real is None or real.shape != output.shape[:2]:
        return output.mean(1)
    weights = real.to(output)[..., None]
    return (output * weights).sum(1) / weights.sum(1)
