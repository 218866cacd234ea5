"""Several processes that train one model together: who they are, and what they say to one another.

All of them run the same program on the same batches and draw the same random numbers. What they share out are the rows
that the towers encode (:mod:`~avalanche_vlm._rows`); all else each of them computes for itself, to the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from avalanche_vlm.errors import ProcessLost

BUCKET = 25 * 2**20
"""Bytes of gradients that are sent together at most, one tensor at least."""

LOST = (
    "another process of this training has ended or does not answer, and without it there is no next step: started "
    "again with the same command, it goes on from its last checkpoint"
)
"""What is said of a process that does not answer."""


class Ranks:
    """The processes that train together, as one of them sees them.

    :param group: the group of torch's that they are; None for all.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._on_device = dist.get_backend(group) != "gloo"

    @property
    def first(self) -> bool:
        """Whether it is the first of them, which alone writes and prints."""
        return self.rank == 0

    @property
    def wire(self) -> torch.device:
        """Where tensors have to be that are sent."""
        return torch.device("cuda", torch.cuda.current_device()) if self._on_device else torch.device("cpu")

    def share(self, n: int, rank: int | None = None) -> slice:
        """Which of ``n`` rows a process works on: consecutive ones, as many as any other has or one more.

        :param n: number of rows.
        :param rank: the process; None for this one.
        """
        rank = self.rank if rank is None else rank
        return slice(rank * n // self.size, (rank + 1) * n // self.size)

    @torch.no_grad()
    def gather(self, own: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
        """The rows of all processes.

        :param own: the rows of this one ``[counts[rank], ...]``.
        :param counts: how many each has, in their order.
        :return: one tensor a process, where ``own`` is.
        """
        most = max(counts)
        sent = own.detach().to(self.wire).contiguous()
        if len(sent) < most:
            sent = torch.cat([sent, sent.new_zeros(most - len(sent), *sent.shape[1:])])
        found = [torch.empty_like(sent) for _ in counts]
        with self._answering():
            dist.all_gather(found, sent, group=self.group)
        return [rows[:count].to(own.device) for rows, count in zip(found, counts, strict=True)]

    @torch.no_grad()
    def rows(self, own: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """The rows of all processes in one tensor, of whatever type they are.

        :param own: the rows of this one ``[counts[rank], ...]``, where tensors have to be that are sent.
        :param counts: how many each has, in their order, 1 or more.
        """
        most, kind, shape = max(counts), own.dtype, own.shape[1:]
        sent = own.detach().contiguous().view(len(own), -1).view(torch.uint8)
        if len(sent) < most:
            sent = torch.cat([sent, sent.new_zeros(most - len(sent), sent.shape[1])])
        found = sent.new_empty(self.size, *sent.shape)
        with self._answering():
            dist.all_gather(list(found), sent, group=self.group)
        full = min(counts) == most
        rows = found.flatten(0, 1) if full else torch.cat([of[:n] for of, n in zip(found, counts, strict=True)])
        return rows.view(kind).view(-1, *shape)

    def on_host(self) -> Ranks:
        """The same processes as they send what is in the host's memory. All of them come here together."""
        global _on_host
        if not self._on_device:
            return self
        world = self.group or dist.group.WORLD
        if _on_host is None or _on_host[0] is not world:
            members = None if self.group is None else dist.get_process_group_ranks(self.group)
            group: Any = dist.new_group(members, backend="gloo")
            _on_host = world, Ranks(group)
        return _on_host[1]

    @torch.no_grad()
    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, a new tensor.

        :param tensor: what this one has to add.
        """
        sent = tensor.detach().to(self.wire, copy=True)
        with self._answering():
            dist.all_reduce(sent, group=self.group)
        return sent.to(tensor.device)

    def averaged(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The means over the processes, new tensors.

        :param tensors: tensors of this process, as many and of the same shapes as in every other.
        """
        found = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
        self.average_(found)
        return found

    @torch.no_grad()
    def average_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put the mean over the processes in the place of tensors, bucket by bucket; a bucket is on its way while the
        next one is filled.

        :param tensors: tensors of this process, as many and of the same shapes as in every other.
        """
        pending = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).to(self.wire)
            with self._answering():
                pending.append((bucket, flat, dist.all_reduce(flat, group=self.group, async_op=True)))
        for bucket, flat, work in pending:
            with self._answering():
                work.wait()
            flat /= self.size
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Average ``.grad`` over the processes. One that only some of them have counts as 0 in the others.

        :param parameters: parameters of the model, which are the same ones in every process.
        """
        trained = [p for p in parameters if p.requires_grad]
        there = self.sum(torch.tensor([p.grad is not None for p in trained], dtype=torch.int32))
        found = []
        for parameter, known in zip(trained, there.tolist(), strict=True):
            if known:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found.append(parameter.grad)
        self.average_(found)

    def told(self, value: Any) -> list[Any]:
        """What every process has to say, in their order.

        :param value: the word of this one, which can be pickled.
        """
        found: list[Any] = [None] * self.size
        with self._answering():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, value: Any) -> Any:
        """What the first process has to say.

        :param value: its word, which can be pickled; that of the others is not looked at.
        """
        said = [value]
        with self._answering():
            dist.broadcast_object_list(said, src=self._global(0), group=self.group)
        return said[0]

    @torch.no_grad()
    def tensor_from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as the first process has it, on the device of this one's.

        :param tensor: a tensor that has one shape and type in all processes.
        """
        sent = tensor.detach().to(self.wire).contiguous().clone()
        with self._answering():
            dist.broadcast(sent, src=self._global(0), group=self.group)
        return sent.to(tensor.device)

    def wait(self) -> None:
        """Go on when all have come here."""
        self.told(None)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            why = str(error).strip().partition("\n")[0]
            raise ProcessLost(LOST) from RuntimeError(why)


def tells_of_loss(error: RuntimeError) -> bool:
    """Whether an error says that a process does not answer: torch has a kind for those of nccl, and gloo names itself.

    :param error: what was raised where processes talk by other means than :class:`Ranks`.
    """
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors of one type and device, as many as fill a bucket."""
    filling: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        bucket = filling.setdefault((tensor.dtype, tensor.device), [])
        if bucket and sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET:
            yield bucket
            bucket = filling[tensor.dtype, tensor.device] = []
        bucket.append(tensor)
    yield from filter(None, filling.values())


_together: Ranks | None = None
"""The processes that this one trains with at present."""
_on_host: tuple[Any, Ranks] | None = None
"""A group of torch's, and its processes as they send what is in the host's memory."""
_alone = 0
"""How many blocks of :func:`alone` we are in."""


def together() -> Ranks | None:
    """The processes that this one trains with at present; None where it trains alone, or does not train."""
    return _together


def sharing() -> Ranks | None:
    """The same, but None within :func:`alone`."""
    return None if _alone else _together


@contextmanager
def training_together(ranks: Ranks | None) -> Iterator[None]:
    """Within a block this process goes hand in hand with others.

    :param ranks: the processes; None leaves it as it is.
    """
    global _together
    before, _together = _together, ranks or _together
    try:
        yield
    finally:
        _together = before


@contextmanager
def alone() -> Iterator[None]:
    """Within a block every process computes all for itself: what looks into a tower, or depends on what one process has
    on its disk."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def reads_apart() -> bool:
    """Whether several processes work, and each reads other data than the rest: not so where they train together by our
    own means, and every one has all answers."""
    there = dist.is_available() and dist.is_initialized()
    return there and _together is None


def found_ranks() -> Ranks | None:
    """The processes of torch's default group; None where there is none, or but one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Ranks()


def leads() -> bool:
    """Whether this process writes and prints: it trains alone, or it is the first of those that train together."""
    ranks = found_ranks()
    return ranks is None or ranks.first


def join(backend: str, patience: float) -> Ranks:
    """Join the processes that a launcher has started, which says by the environment who and where they are.

    :param backend: how they talk, ``"gloo"`` or ``"nccl"``.
    :param patience: seconds to wait for one that does not answer.
    :raises ProcessLost: if they do not come together.
    """
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=patience))
    except RuntimeError as error:
        raise ProcessLost(f"the processes of this training do not come together: {error}") from error
    return Ranks()


def part_company() -> None:
    """Leave the processes that :func:`join` has joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
