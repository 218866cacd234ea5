"""What a state on disk costs: seconds, bytes and memory to save and to load the weights of a model.

    python benchmarks/checkpoint_cost.py
    python benchmarks/checkpoint_cost.py --models tiny ViT-B-16 --share 0.1 --folder DIR

Five steps, each in the process of the one before: everything is written for the first time; nothing has changed and it
is saved again; a share of the tensors, by bytes, has changed; the state is loaded; it is loaded with big tensors left
on the disk. Beside them stands what the disk itself takes to have as many bytes in one file. Memory is the most that
the process had at once above what it had before the step, as Linux counts it: to save, that is above the state; to
load, the state itself is in it. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from resident import peak_above

from avalanche_vlm.models import create_vlm
from avalanche_vlm.storage import load_state, save_state

MB = 1e6


def measured(do: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and the most memory in MB above what there was before."""
    with peak_above() as memory:
        start = time.perf_counter()
        found = do()
        seconds = time.perf_counter() - start
    del found
    return seconds, memory[0]


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
    parser.add_argument("--folder", help="where the states are written; by default the system's temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | step | seconds | MB on disk | MB of memory |\n|---|---|---|---|---|")
    for name in args.models:
        model = create_vlm(name)
        state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items() if torch.is_tensor(tensor)}
        del model
        size = sum(tensor.nbytes for tensor in state.values())
        with tempfile.TemporaryDirectory(dir=args.folder) as home:
            folder = Path(home)

            def save(called: str, folder: Path = folder, state: dict[str, torch.Tensor] = state) -> Path:
                return save_state(folder, state, name=called, kind="benchmark")

            def load(mapped: bool, folder: Path = folder) -> Any:
                return load_state(folder, kind="benchmark", mapped=mapped)

            steps: dict[str, Callable[[], Any]] = {
                "first time": lambda save=save: save("first"),
                "unchanged": lambda save=save: save("second"),
                f"{args.share:.0%} changed": lambda save=save: save("third"),
                "loaded": lambda load=load: load(False),
                "loaded, big tensors on the disk": lambda load=load: load(True),
                "as many bytes in one file": lambda folder=folder, size=size: plain_write(folder, size),
            }
            print(f"| {name} | a state of {size / MB:.1f} MB in {len(state)} tensors | | | |")
            for called, do in steps.items():
                if called.endswith("% changed"):
                    change(state, args.share)
                seconds, memory = measured(do)
                print(f"| | {called} | {seconds:.3f} | {disk_bytes(folder) / MB:.1f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
