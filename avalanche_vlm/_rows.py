"""Rows that several processes encode together: each its share, and all of them have all features.

A gradient that comes back to the gathered features is the same in every process, which all compute the same loss. Each
takes the part of its own rows, times the number of processes, for in the end gradients are averaged over them: so what
came through the towers is summed, and what every process has computed for itself stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from avalanche_vlm._ranks import Ranks, alone, sharing, together
from avalanche_vlm.compat.tensors import backward_pass
from avalanche_vlm.errors import InputError


class RowShare:
    """The rows of a batch that this process encodes.

    :param ranks: the processes that share them out.
    :param total: number of rows of the batch.
    :param own: which of them are this process's.
    """

    def __init__(self, ranks: Ranks, total: int, own: slice) -> None:
        self.ranks, self.total, self.own = ranks, total, own
        self.appended = 0
        """Rows that came in on the way, behind those of the batch."""

    @property
    def count(self) -> int:
        """Number of the rows that are this process's."""
        return self.own.stop - self.own.start

    def drawn(self, like: torch.Tensor, fill: Callable[[torch.Tensor], Any]) -> torch.Tensor:
        """What is drawn for these rows, out of what one process would draw for the whole batch.

        :param like: a tensor of these rows ``[count, ...]``.
        :param fill: draws a tensor's values in place.
        :raises InputError: if the rows of the tensor are others.
        """
        if len(like) != self.count:
            raise InputError(
                "this model draws random numbers for activations whose first dimension is not the batch: it does not "
                "train in several processes"
            )
        whole = like.new_empty(self.total, *like.shape[1:])
        fill(whole)
        return whole[self.own]


_part: RowShare | None = None
_back: tuple[int, RowShare] | None = None
"""The backward pass that has come to the rows of a share, and the share."""


def _now() -> RowShare | None:
    """The share that is encoded, be it once more within a backward pass: autograd goes through a tower from its
    features down, and through one tower after the other."""
    if _part is None and _back is not None and _back[0] == backward_pass():
        return _back[1]
    return _part


def once_more() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For torch's checkpoints: what to compute within, now and when it is computed once more, so that rows are shared
    out then as they are now."""
    computed_by_all = together() is not None and sharing() is None
    return nullcontext(), alone() if computed_by_all else nullcontext()


@contextmanager
def _within(inner: RowShare) -> Iterator[None]:
    global _part
    before, _part = _part, inner
    try:
        yield
    finally:
        _part = before


def share_out(encode: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Encode rows together with the other processes; alone where there are none, or fewer rows than processes.

    :param encode: a tower, rows to features, each for itself.
    :param rows: the inputs ``[B, ...]``, the same in every process.
    :return: features ``[B, D]``, the same in every process, with gradients.
    """
    ranks = sharing()
    if ranks is None or _part is not None or len(rows) < ranks.size:
        return encode(rows)
    inner = RowShare(ranks, len(rows), ranks.share(len(rows)))
    with _within(inner):
        own = encode(rows[inner.own])
    return _Gathered.apply(own, inner)


class _Gathered(torch.autograd.Function):
    """The features of all processes, in the order of the batch; behind them those of what was appended."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, inner: RowShare) -> torch.Tensor:
        ctx.inner, ranks, more = inner, inner.ranks, inner.appended
        shares = [(ranks.share(inner.total, r), ranks.share(more, r)) for r in range(ranks.size)]
        ctx.size, (ctx.own, ctx.more), ctx.total = ranks.size, shares[ranks.rank], inner.total
        found = ranks.gather(own, [_length(batch) + _length(further) for batch, further in shares])
        if not more:
            return torch.cat(found)
        halves = [rows.split([_length(batch), _length(f)]) for rows, (batch, f) in zip(found, shares, strict=True)]
        return torch.cat([*(half[0] for half in halves), *(half[1] for half in halves)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        global _back
        _back = backward_pass(), ctx.inner
        (gradient,) = gradients
        own = gradient[ctx.own]
        if _length(ctx.more):
            own = torch.cat([own, gradient[ctx.total :][ctx.more]])
        return own * ctx.size, None


def _length(rows: slice) -> int:
    return rows.stop - rows.start


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.size = ranks.size
        return ranks.sum(own)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.size, None


def summed(own: torch.Tensor) -> torch.Tensor:
    """A sum over the rows of a batch, where each process has its own rows: over all of them, with gradients.

    :param own: the sum over the rows of this process; where it encodes all, the whole.
    """
    return own if (part := _now()) is None else _Summed.apply(own, part.ranks)


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    """Of something that every sample of the batch has its own of, what belongs to the rows of this process.

    :param rows: ``[B, ...]`` of the whole batch.
    """
    return rows if (part := _now()) is None else rows[part.own]


def append(rows: torch.Tensor) -> torch.Tensor:
    """Further rows that join the batch on the way through a tower: those that this process goes on with.

    :param rows: the further rows ``[n, ...]``.
    """
    if _part is None:
        return rows
    _part.appended = len(rows)
    return rows[_part.ranks.share(len(rows))]


@torch.no_grad()
def of_all(own: torch.Tensor) -> torch.Tensor:
    """The rows of the whole batch ``[B, ...]``, without gradients.

    :param own: the entries of the rows that this process encodes ``[n, ...]``.
    """
    if (part := _now()) is None:
        return own
    counts = [_length(part.ranks.share(part.total, rank)) for rank in range(part.ranks.size)]
    return torch.cat(part.ranks.gather(own, counts))


@contextmanager
def among(rows: torch.Tensor) -> Iterator[None]:
    """Within a block the batch is some of its rows, in their order.

    :param rows: which of the batch's rows they are, bool ``[B]``.
    """
    if _part is None:
        yield
        return
    before, count = int(rows[: _part.own.start].sum()), int(rows[_part.own].sum())
    with _within(RowShare(_part.ranks, int(rows.sum()), slice(before, before + count))):
        yield


def normal(like: torch.Tensor) -> torch.Tensor:
    """Normal noise for the rows of this process, as one process would draw it for the batch.

    :param like: a tensor of these rows ``[n, ...]``.
    """
    return torch.randn_like(like) if (part := _now()) is None else part.drawn(like, torch.Tensor.normal_)


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """torch's dropout, which for a share of a batch leaves out what it would have left out of the whole.

    :param x: activations ``[n, ...]``, the batch first.
    :param p: share that is left out, in [0, 1).
    :param training: whether any is.

    >>> dropout(torch.ones(2, 1), 0.5, False).tolist()
    [[1.0], [1.0]]
    """
    part = _now()
    if part is None or not training or p == 0:
        return F.dropout(x, p, training)
    return x * part.drawn(x, lambda whole: whole.bernoulli_(1 - p).div_(1 - p))


def counts_here() -> bool:
    """Whether what a pass reads of its rows is this process's to count: its own share, or all in the first one."""
    ranks = together()
    return _part is not None or ranks is None or ranks.first
