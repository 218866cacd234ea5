"""Several processes that train together, as copies of this one: what they import is there already."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist


def together(
    work: Callable[[int], Any], meeting: Path, processes: int = 2, seconds: float = 60, loads: bool = False
) -> list[Any]:
    """What each process has to say, in the order of their ranks; skipped where processes cannot be copied.

    :param work: takes the rank and gives plain values. It must not differentiate: autograd's threads are not copied.
    :param meeting: file that does not exist, by which the processes find each other.
    :param loads: whether they start processes of their own, which load data and end with them.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("processes of this system cannot be copied")
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(duplex=False) for _ in range(processes)]
    running = [
        context.Process(target=_one_of, args=(rank, processes, meeting, work, end), daemon=not loads)
        for rank, (_, end) in enumerate(ends)
    ]
    for process, (_, end) in zip(running, ends, strict=True):
        process.start()
        end.close()
    try:
        said = [ear.recv() if ear.poll(seconds) else "nothing" for ear, _ in ends]
    finally:
        for process in running:
            process.join(5)
            process.kill()
    for one in said:
        assert not isinstance(one, Exception), one
    return said


def _one_of(rank: int, processes: int, meeting: Path, work: Callable[[int], Any], end: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    try:
        end.send(work(rank))
    except Exception as error:
        end.send(error)
    finally:
        dist.destroy_process_group()
