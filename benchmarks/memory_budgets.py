"""Every kind of memory at equal byte budgets, with the bytes that the process really holds.

    python benchmarks/memory_budgets.py --out runs/budgets

Each run is a process of its own, and started again with the same ``--out`` the script keeps what is finished. The bytes
are those that the C allocator gets back when the memory is deleted at the end of the stream: all Python objects, arrays
and tensors in it, and whatever it keeps alive by accident. Needs glibc 2.33 or newer (``mallinfo2``).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apart import run_all

KIB = 1024
BUDGETS = (16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "exemplars, class-balanced": ("replay", {}),
    "exemplars, reservoir": ("replay", {"policy": "reservoir"}),
    "exemplars, herding": ("replay", {"policy": "herding"}),
    "exemplars, hardest": ("replay", {"policy": "hardest"}),
    "exemplars, JPEG": ("replay", {"codec": "jpeg"}),
    "texts": ("text-replay", {}),
    "latents, int8": ("latent-replay", {}),
    "statistics, full": ("prototype-replay", {"kind": "full"}),
    "statistics, GMM": ("prototype-replay", {"kind": "gmm"}),
    "generated pairs (GIFT)": ("gift", {}),
}
NOTHING = ("nothing", "nothing, half the tower frozen", "nothing, adapter on frozen towers")
"""Without a memory: fine-tuning, and what latents and statistics do to the model before they remember anything."""
METRICS = ("last", "forget", "zsd", "held_out")


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def allocated() -> int:
    """Bytes that the C allocator has handed out and not got back."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def held(drop: Callable[[], None]) -> int:
    """Bytes that dropping something gives back."""
    gc.collect()
    before = allocated()
    drop()
    gc.collect()
    return before - allocated()


def run_one(kind: str, budget: int, seed: int, n_train: int, n_test: int) -> dict[str, Any]:
    """Train, measure, and drop the memory."""
    import torch
    from avalanche.training.plugins import SupervisedPlugin

    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.models.cut import TowerCut, default_cut
    from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training.plugins import ConsolidatedDistillationPlugin
    from avalanche_vlm.training.recipes import settings_for
    from avalanche_vlm.training.settings import TrainSettings

    torch.set_num_threads(1)
    recipe, options = KINDS.get(kind, ("fine-tune", {}))
    options = dict(options)
    train, preset = settings_for("prototype-replay" if "adapter" in kind else recipe, "picturebook")
    model = create_vlm("tiny")
    if kind == NOTHING[1]:
        TowerCut(model, default_cut(model)).freeze_below()
    elif kind == NOTHING[2]:
        model.freeze("image", "text")
        model.image_path = AdapterPath(FeatureAdapter(128))
    if recipe == "gift":
        # A picture, which prompt it shows, that prompt's 20 tokens, and the teacher's features of both.
        options["n"] = max(2, budget // (3 * 32 * 32 + 4 + 2 * 20 + 2 * 128 * 4))
        options["batch_size"] = min(64, options["n"])
    elif recipe != "fine-tune":
        options["max_bytes"] = budget
    measured: dict[str, int] = {}

    class LastEpoch(SupervisedPlugin):
        """Generated pairs live while a task trains: weigh them before the last task lets them go."""

        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            last = (
                strategy.experience.current_experience == 7 and strategy.clock.train_exp_epochs == train["epochs"] - 1
            )
            for plugin in strategy.plugins:
                if last and isinstance(plugin, ConsolidatedDistillationPlugin):
                    (teacher,), reference = plugin.teachers, plugin.reference
                    measured["account"] = (teacher.stored() + reference.pairs.stored()).total

                    def drop(teacher: Any = teacher, reference: Any = reference) -> None:
                        teacher.end()
                        reference.pairs = None

                    measured["held"] = held(drop)

    outcome = run_experiment(
        picturebook.mtil_like(seed, n_train=n_train, n_test=n_test, n_held_out=500),
        recipe,
        model=model,
        settings=TrainSettings(**train),
        options={**preset, **options},
        seed=seed,
        plugins=[LastEpoch()],
    )
    holders = [plugin for plugin in outcome.strategy.plugins if hasattr(plugin, "memory")]

    def drop() -> None:
        for plugin in holders:
            plugin.memory = None

    if holders:
        measured["account"] = holders[0].memory.stored().total
        measured["held"] = held(drop)
    metrics, sets = outcome.result["metrics"], outcome.result["held_out"]
    return {
        "kind": kind,
        "budget": budget,
        "seed": seed,
        **{name: metrics[name] for name in ("last", "forget", "zsd")},
        "held_out": sets["captions R@1"][-1],
        "account": measured.get("account", 0),
        "held": measured.get("held", 0),
        **outcome.timing,
    }


ALLOCATOR = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""For a process whose allocator hides nothing: Python's own and glibc's thread caches keep what is given back."""


def cells_of_table() -> list[tuple[str, int]]:
    """Kinds and budgets, in order."""
    return [(kind, 0) for kind in NOTHING] + [(kind, budget) for kind in KINDS for budget in BUDGETS]


def table(results: list[dict[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    lines = [
        "| memory | budget | Last | Forget | ZSD | held-out R@1 | account | held | held / account |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, budget in cells_of_table():
        rows = [r for r in results if r["kind"] == kind and r["budget"] == budget]
        if not rows:
            continue
        cells = []
        for name in METRICS:
            values = [row[name] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        account, real = (statistics.mean(row[name] for row in rows) for name in ("account", "held"))
        ratio = [row["held"] / row["account"] for row in rows if row["account"]]
        span = f"{min(ratio):.3f} to {max(ratio):.3f}" if ratio else ""
        size = f"{budget // KIB} KiB" if budget else ""
        cells += [f"{account:,.0f}", f"{real:,.0f}", span]
        lines.append(f"| {kind} | {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--kinds", default="", help="of all, these, with semicolons between (default: all)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--n-train", type=int, default=256, help="pictures per task (default: 256)")
    parser.add_argument("--n-test", type=int, default=125, help="likewise (default: 125)")
    parser.add_argument("--processes", type=int, default=2, help="at a time; each has one thread")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*json.loads(options.one))))
        return
    sizes = options.n_train, options.n_test
    jobs = {}
    for seed in map(int, options.seeds.split(",")):
        for kind, budget in cells_of_table():
            name = "-".join("".join(c if c.isalnum() else " " for c in kind).split())
            path = options.out / f"{name}-{budget}-{seed}-{sizes[0]}-{sizes[1]}.json"
            jobs[path] = (kind, budget, seed, *sizes)
    wanted = options.kinds.split(";") if options.kinds else [*NOTHING, *KINDS]
    jobs = {path: job for path, job in jobs.items() if job[0] in wanted}
    text = table(run_all(__file__, jobs, options.processes, ALLOCATOR))
    (options.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
