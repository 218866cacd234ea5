"""What a state on disk costs: seconds, bytes and memory to save and to load the weights of a model.

    python benchmarks/checkpoint_cost.py
    python benchmarks/checkpoint_cost.py --models tiny ViT-B-16 --share 0.1 --folder DIR

Six steps, each in the process of the one before: everything is written for the first time; nothing has changed and it
is saved again; a share of the tensors, by bytes, has changed; all have; the state is loaded; it is loaded with big
tensors left on the disk. Seconds are those until the state is whole for every process, as a training waits for them;
beside them stands the processor time of all threads, and what else it takes until the disk has it, for which a training
does not wait; the least of several rounds. Below stands what the disk itself takes to have as many bytes in one file.
Memory is the most that the process had at once above what it had before the step, as Linux counts it: to save, that is
above the state; to load, the state itself is in it. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from resident import peak_above

from avalanche_vlm.models import create_vlm
from avalanche_vlm.storage import StateWriter, load_state

MB = 1e6


class Cost(NamedTuple):
    """What a step took: seconds, processor time of all threads, seconds until the disk had it as well, MB of memory."""

    seconds: float
    cpu: float
    disk: float
    memory: float


def measured(do: Callable[[], Any], settle: Callable[[], Any]) -> Cost:
    """What it takes to do something, and then until the disk has all that was written."""
    with peak_above() as memory:
        start, cpu = time.perf_counter(), time.process_time()
        found = do()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        settle()
        disk = time.perf_counter() - start - seconds
    del found
    return Cost(seconds, cpu, disk, memory[0])


def disk_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def plain_write(folder: Path, size: int) -> None:
    """As many bytes in one file, on the disk."""
    part = os.urandom(1 << 20)
    with (folder / "plain").open("wb") as file:
        for _ in range(-(-size // len(part))):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    (folder / "plain").unlink()


def change(state: dict[str, torch.Tensor], share: float) -> None:
    """Another value in every element of so many tensors that they have this share of the bytes."""
    left = share * sum(tensor.nbytes for tensor in state.values())
    for tensor in state.values():
        if left <= 0:
            break
        if tensor.is_floating_point():
            tensor.add_(1e-3)
            left -= tensor.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "ViT-B-16"])
    parser.add_argument("--share", type=float, default=0.1, help="of the bytes, that change before the third saving")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the states are written; by default the system's temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | step | seconds | processor time | until the disk has it | MB on disk | MB of memory |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        model = create_vlm(name)
        state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items() if torch.is_tensor(tensor)}
        del model
        size = sum(tensor.nbytes for tensor in state.values())
        print(f"| {name} | a state of {size / MB:.1f} MB in {len(state)} tensors | | | | | |")
        found: dict[str, list[tuple[Cost, int]]] = {}
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory(dir=args.folder) as home:
                for called, cost in steps(Path(home), state, args.share):
                    found.setdefault(called, []).append((cost, disk_bytes(Path(home))))
        for called, costs in found.items():
            best = Cost(*(min(values) for values in zip(*(cost for cost, _ in costs), strict=True)))
            memory = max(cost.memory for cost, _ in costs)
            row = [f"{best.seconds:.3f}", f"{best.cpu:.3f}", f"{best.disk:.2f}", f"{costs[0][1] / MB:.1f}"]
            print(f"| | {called} | {' | '.join(row)} | {memory:.1f} |", flush=True)


def steps(folder: Path, state: dict[str, torch.Tensor], share: float) -> Iterator[tuple[str, Cost]]:
    """What each step costs, one after the other in one folder."""
    writer = StateWriter(folder)
    saved = (("first time", 0.0), ("unchanged", 0.0), (f"{share:.0%} changed", share), ("all changed", 1.0))
    for number, (called, changed) in enumerate(saved):
        change(state, changed)
        yield called, measured(partial(writer.save, state, name=f"{number}", kind="benchmark"), writer.settle)
    for called, mapped in (("loaded", False), ("loaded, big tensors on the disk", True)):
        yield called, measured(partial(load_state, folder, kind="benchmark", mapped=mapped), writer.settle)
    size = sum(tensor.nbytes for tensor in state.values())
    yield "as many bytes in one file", measured(lambda: plain_write(folder, size), writer.settle)


if __name__ == "__main__":
    main()
