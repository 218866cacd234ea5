"""The gradient of an embedding of tokens, as the rows of the tokens that were read.

An embedding of a CLIP has 49,408 rows, of which a batch reads some dozens. torch makes a whole embedding of zeros for
them whenever it is read. Where a penalty on the weights, or an earlier reading, has sent a whole gradient already, two
are there at a time: the memory of the embedding once more, and the time to fill it and to add it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._gradients import has_whole, send_whole
from avalanche_vlm.compat.modules import has_hooks


def embedded(embedding: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What a module gives for tokens. On a CPU the gradient of an :class:`torch.nn.Embedding` is the rows of these
    tokens, where a whole gradient is there to which they are added; the sum is the same to the last bit. Elsewhere, in
    programs of ``torch.compile``, and for other modules this is calling the module: on an accelerator, counting rows
    would wait for it.

    :param embedding: the module that a tower reads tokens by.
    :param tokens: token ids ``[N, L]``.
    :return: ``[N, L, D]``.

    >>> table = nn.Embedding(4, 1)
    >>> embedded(table, torch.tensor([[1, 3, 1]])).sum().backward()
    >>> table.weight.grad.T
    tensor([[0., 2., 0., 1.]])
    """
    if not _by_rows(embedding):
        return embedding(tokens)
    found: torch.Tensor = _ByRows.apply(embedding.weight, tokens)
    return found


def _by_rows(embedding: nn.Module) -> bool:
    if type(embedding) is not nn.Embedding or has_hooks(embedding):
        return False
    if not torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    weight, plain = embedding.weight, embedding.padding_idx is None and embedding.max_norm is None
    plain = plain and not embedding.scale_grad_by_freq and not embedding.sparse
    return plain and weight.requires_grad and weight.device.type == "cpu"


class _ByRows(torch.autograd.Function):
    """Rows of a table by number. Of each row that was read, what came back to it is added up in the order in which it
    was read, as torch does it."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, tokens)
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[torch.Tensor, None]:
        weight, tokens = ctx.saved_tensors
        numbers, sent = tokens.reshape(-1), incoming.reshape(-1, weight.shape[1])
        if torch.is_grad_enabled() or not has_whole(weight):  # with a graph of its own it is differentiated again
            send_whole(weight)
            return torch.zeros_like(weight).index_add_(0, numbers, sent), None
        read = torch.zeros(len(weight), dtype=torch.bool)
        read[numbers] = True
        place, rows = read.cumsum(0) - 1, read.nonzero().T
        sums = weight.new_zeros(rows.shape[1], weight.shape[1]).index_add_(0, place[numbers], sent)
        return torch.sparse_coo_tensor(rows, sums, weight.shape, is_coalesced=True, check_invariants=False), None
