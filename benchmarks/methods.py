"""Every recipe on a stream of classes and on one of pairs, with what it costs.

    python benchmarks/methods.py --out runs/methods

Each run is a process of its own, and started again with the same ``--out`` the script keeps what is finished. Peak
memory is how far the process grew over what it held before it trained, on CUDA what torch allocated at most.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
from pathlib import Path
from typing import Any

from apart import run_all, table

STREAMS = ("mtil_like", "pairs")
FIGURES = {
    "last": "Last",
    "avg": "Avg",
    "transfer": "Transfer",
    "forget": "Forget",
    "bwt": "BWT",
    "zsd": "ZSD",
    "held_out_r1": "held-out R@1",
    "modality_gap": "gap",
    "seconds": "train s (CPU)",
    "peak_mb": "peak MB",
    "stored_kb": "stored kB",
}
DIGITS = {"modality_gap": 3, "seconds": 0, "peak_mb": 0, "stored_kb": 0}


def run_one(recipe: str, stream: str, seed: int, n_train: int, n_test: int, device: str) -> dict[str, Any]:
    """One recipe, one stream, one seed."""
    import torch

    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.report.table import row
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training.recipes import settings_for
    from avalanche_vlm.training.settings import TrainSettings

    torch.set_num_threads(1)
    train, options = settings_for(recipe, "picturebook")
    benchmark = getattr(picturebook, stream)(seed, n_train=n_train, n_test=n_test, n_held_out=500)
    model = create_vlm("tiny").to(device)
    gc.collect()
    before = resident()
    outcome = run_experiment(
        benchmark, recipe, model=model, settings=TrainSettings(**train), options=options, seed=seed, device=device
    )
    on_device = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    peak = on_device or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    figures = row({"result": outcome.result, "timing": {"total_seconds": outcome.timing["train_cpu_seconds"]}})
    return {
        **figures,
        "stream": stream,
        "peak_mb": peak / 1e6,
        "stored_kb": figures["stored_bytes"] / 1e3,
    }


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--recipes", default="", help="of all, these (default: all)")
    parser.add_argument("--streams", default=",".join(STREAMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--n-train", type=int, default=256, help="pictures per task (default: 256)")
    parser.add_argument("--n-test", type=int, default=125, help="likewise (default: 125)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="at a time; each has one thread")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*json.loads(options.one))))
        return
    from avalanche_vlm.training import recipes

    names = options.recipes.split(",") if options.recipes else recipes.list()
    kind = {"mtil_like": "classes", "pairs": "pairs"}
    sizes = (options.n_train, options.n_test)
    jobs = {
        options.out / f"{stream}-{name}-{seed}-{sizes[0]}-{sizes[1]}.json": (name, stream, seed, *sizes, options.device)
        for seed in map(int, options.seeds.split(","))
        for stream in options.streams.split(",")
        for name in names
        if kind[stream] in recipes.get(name).kinds
    }
    results = run_all(__file__, jobs, options.processes)
    for stream in options.streams.split(","):
        text = table(results, stream, FIGURES, DIGITS)
        (options.out / f"{stream}.md").write_text(text + "\n")
        print(text, end="\n\n")


if __name__ == "__main__":
    main()
