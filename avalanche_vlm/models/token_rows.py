"""An embedding of tokens whose gradient takes up that of a penalty on it.

An embedding of a CLIP has 49,408 rows, a sixth of ViT-B/32's weights. What comes back to it is as large, whatever few
rows were read, and so is the gradient of a penalty on the weights: here there is one of them at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._gradients import Pull, Thread, leave_thread
from avalanche_vlm.compat.modules import has_hooks
from avalanche_vlm.compat.tensors import transforms_active


def embedded(embedding: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What a module gives for tokens. The gradient of a plain ``nn.Embedding`` that trains is that of torch to
    the last bit; that of a :func:`~avalanche_vlm.losses.penalty.quadratic_penalty` on its weight is added in the same
    memory. Of another module, one with hooks, under transforms of ``torch.func``, and in programs that are compiled or
    traced, this is calling it.

    :param embedding: the module that a tower reads tokens by.
    :param tokens: token ids ``[N, L]``.
    :return: ``[N, L, D]``.

    >>> table = nn.Embedding(4, 1)
    >>> embedded(table, torch.tensor([[1, 3, 1]])).sum().backward()
    >>> table.weight.grad.T
    tensor([[0., 2., 0., 1.]])
    """
    if not isinstance(embedding, nn.Embedding) or not _takes_up(embedding):
        return embedding(tokens)
    pull = Pull()
    found, end = _Read.apply(embedding.weight, tokens, pull)
    thread = Thread(end, pull)
    leave_thread(embedding.weight, thread)
    held: torch.Tensor = _Hold.apply(found, thread)
    return held


def _takes_up(embedding: nn.Embedding) -> bool:
    if type(embedding) is not nn.Embedding or has_hooks(embedding) or has_hooks(None):
        return False
    if not torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling() or transforms_active():
        return False
    plain = embedding.padding_idx is None and embedding.max_norm is None
    return plain and not embedding.scale_grad_by_freq and not embedding.sparse and embedding.weight.requires_grad


class _Read(torch.autograd.Function):
    """Rows of a table by number, and the end of the thread by which a penalty on the table may hang."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, tokens: torch.Tensor, pull: Pull) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        # None of them is saved: a loss and a penalty may ask for their gradients one after the other, and what was
        # read before a step may come back after it, as in torch.
        ctx.weight, ctx.tokens, ctx.pull = weight, tokens, pull
        return F.embedding(tokens, weight), weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, incoming: torch.Tensor | None, factor: torch.Tensor | None) -> tuple[Any, ...]:
        weight, gradient = ctx.weight, None
        ctx.pull.over = True
        if incoming is not None:  # torch's own operator, whose gradient is that of every device and type to the bit
            gradient = torch.ops.aten.embedding_dense_backward(incoming, ctx.tokens, len(weight), -1, False)
        if factor is not None:
            gradient = torch.zeros_like(weight) if gradient is None else gradient
            gradient = ctx.pull.add_to(gradient, weight, factor)
        return gradient, None, None


class _Hold(torch.autograd.Function):
    """Hands on what was read, and holds the thread for as long as the graph of it is there."""

    @staticmethod
    def forward(ctx: Any, read: torch.Tensor, thread: Thread) -> torch.Tensor:
        ctx.thread = thread
        return read.detach()

    @staticmethod
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[torch.Tensor, None]:
        return incoming, None
