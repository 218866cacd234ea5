"""What following the advice costs, against the full comparison that it saves.

    python benchmarks/advice_regret.py --out runs/advice

For every stream all recipes that advice tries are trained on all data, and `avalanche-vlm advise` is asked under three
sets of constraints, which share their pilots. The regret is the Last of the best recipe that meets the constraints in
the full comparison less that of the recommended one. Each run is a process of its own with one thread, and started
again with the same `--out` the script keeps what is finished. A recipe whose memory has a budget over `--max-bytes`
competes with the budget that is allowed, as advice has it. Seeds decide the pictures too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apart import run_all

ORDER = ("fabrics", "faded", "sketches", "graffiti", "digits", "toys", "night", "x-rays")
STREAMS: dict[str, list[str]] = {
    "domains": ["--benchmark", "picturebook-domains"],
    "classes": ["--benchmark", "picturebook-classes"],
    "pairs": ["--benchmark", "picturebook-pairs"],
    "mtil": ["--benchmark", "picturebook"],
    "mtil, other order": ["--benchmark", "picturebook", "--order", ",".join(ORDER)],
    "time": ["--benchmark", "picturebook-time"],
}
BYTES = 3_000_000
LIMITS = {
    "none": [],
    "no raw data, few bytes": ["--no-raw-data", "--max-bytes", str(BYTES), "--keep-zero-shot", "10"],
    "keep zero-shot": ["--keep-zero-shot", "1"],
}
"""Sets of constraints. None is on time: pilots and the full comparison would have to run on an equally busy machine."""
WITHIN = 2.0
"""Points of regret that count as right."""


def options_of(stream: str, sizes: dict[str, int], seed: int, out: Path) -> list[str]:
    """Arguments of the command line."""
    numbers = [text for name, n in sizes.items() for text in (f"--{name.replace('_', '-')}", str(n))]
    return [*STREAMS[stream], "--full", *numbers, "--seed", str(seed), "--threads", "1", "--quiet", "--out", str(out)]


def full(stream: str, recipe: str, seed: int, sizes: dict[str, int], max_bytes: int | None) -> dict[str, Any]:
    """A recipe on all data, scored on all test samples; what it costs is measured."""
    import copy
    import time

    from avalanche_vlm.commands import prepare
    from avalanche_vlm.commands.arguments import parse
    from avalanche_vlm.studies.advice.constraints import Constraints
    from avalanche_vlm.studies.advice.pilot import Scores, run_pilot
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.settings import TrainSettings

    _, request = parse(["advise", *options_of(stream, sizes, seed, Path("unused"))])
    asked = prepare.experiment(request, recipe, seed)
    train, chosen = prepare.settings(request, recipe)
    chosen = Constraints(max_bytes).budgeted(recipes.get(recipe).settings, chosen)
    model, benchmark = prepare.opened(asked)
    pilot = run_pilot(
        benchmark,
        recipe,
        1.0,
        pretrained=Scores(copy.deepcopy(model), benchmark),
        model=model,
        settings=TrainSettings(**train),
        options=chosen,
        seed=seed,
        device="cpu",
        clock=time.monotonic,
    )
    return {"stream": stream, "max_bytes": max_bytes, "pilot": pilot.as_json()}


def advice(
    stream: str, seed: int, sizes: dict[str, int], recipes: str, minutes: float, limits: dict[str, list[str]], out: str
) -> dict[str, Any]:
    """What is recommended under each set of constraints."""
    from avalanche_vlm import cli

    folder, found = Path(out), {}
    for name, arguments in limits.items():
        asked = [*options_of(stream, sizes, seed, folder), "--recipes", recipes, "--minutes", str(minutes), *arguments]
        if cli.main(["advise", *asked]):
            raise SystemExit(f"no advice for {stream} under {name}")
        advice = json.loads((folder / "advice.json").read_text())
        (folder / f"advice, {name}.json").write_text(json.dumps(advice, indent=1))
        found[name] = {"answer": advice["answer"], "minutes": advice["minutes"]["used"]}
    return {"stream": stream, "advice": found}


def regret(stream: str, name: str, answer: dict[str, Any], compared: list[dict[str, Any]], limits: list[str]) -> str:
    """A row of the table."""
    from avalanche_vlm.commands.arguments import parse
    from avalanche_vlm.commands.pilots import constraints_of
    from avalanche_vlm.studies.advice.pilot import Pilot

    constraints = constraints_of(parse(["advise", "--out", "unused", *limits])[1])
    pilots = {}
    for run in compared:
        # With its usual memory where that is allowed, with the budget that is where it is not.
        if run["stream"] == stream and run["max_bytes"] in (None, constraints.max_bytes):
            pilot = Pilot.from_json(run["pilot"])
            if pilot.recipe not in pilots or run["max_bytes"] is not None:
                pilots[pilot.recipe] = pilot
    broken = {n: constraints.broken_by(p, p.ledger["train_seconds"]) for n, p in pilots.items()}
    fit = {n: p for n, p in pilots.items() if broken[n] is None and constraints.meets(p)}
    best, chosen = max(fit.values(), key=lambda p: p.last, default=None), pilots.get(answer["recipe"])
    if best is None or chosen is None:
        right = best is None and answer["recipe"] is None
        return f"| {stream} | {name} | {answer['recipe']} | {best and best.recipe} | | {'yes' if right else 'no'} | |"
    lost = round(best.last - chosen.last, 6)
    why = "" if chosen.recipe in fit else broken[chosen.recipe] or f"{chosen.zero_shot_kept:+.1f} points of zero-shot"
    within = "yes" if lost <= WITHIN and not why else "no"
    return (
        f"| {stream} | {name} | `{chosen.recipe}` {chosen.last:.1f} | `{best.recipe}` {best.last:.1f} | {lost:.1f} | "
        f"{within} | {'; '.join(part for part in (answer['confidence'], why) if part)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/advice"))
    parser.add_argument("--streams", default="", help="of all, these, separated by semicolons (default: all there are)")
    parser.add_argument("--recipes", default="", help="separated by commas (default: those that advise tries)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-train", type=int, default=640, help="pictures per task (default: 640)")
    parser.add_argument("--n-test", type=int, default=250)
    parser.add_argument("--n-held-out", type=int, default=1000)
    parser.add_argument("--n-reference", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=4.5, help="for the advice on a stream (default: 4.5)")
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="at a time, each with one thread: no more than there are idle cores, since advice has a budget of time",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *rest = json.loads(options.one)
        print(json.dumps({"full": full, "advice": advice}[what](*rest)))
        return
    from avalanche_vlm.catalogue import ADVISED
    from avalanche_vlm.training import recipes

    streams = options.streams.split(";") if options.streams else list(STREAMS)
    names = options.recipes.split(",") if options.recipes else ADVISED
    sizes = {name: getattr(options, name) for name in ("n_train", "n_test", "n_held_out", "n_reference")}
    tag, jobs = "-".join(map(str, [options.seed, *sizes.values()])), {}
    for stream in streams:
        kind = "pairs" if stream == "pairs" else "classes"
        for name in names:
            known = recipes.get(name)
            if kind not in known.kinds:
                continue
            unlimited = known.settings.get("max_bytes", 0) is None
            for budget in (None, BYTES) if unlimited or known.settings.get("max_bytes", 0) > BYTES else (None,):
                path = options.out / f"full-{stream}-{name}-{budget}-{tag}.json"
                jobs[path] = ("full", stream, name, options.seed, sizes, budget)
    compared = run_all(__file__, jobs, options.processes)
    asked = {}
    for stream in streams:
        folder = options.out / f"advice-{stream}-{tag}"
        asked[options.out / f"advice-{stream}-{tag}-{options.minutes:g}-{','.join(names)}.json"] = (
            *("advice", stream, options.seed, sizes, ",".join(names), options.minutes, LIMITS, str(folder)),
        )
    found = run_all(__file__, asked, options.processes)
    lines = ["| stream | constraints | recommended | best by full comparison | regret | within 2 points | |"]
    lines.append("|---" * 7 + "|")
    for result in found:
        for name, told in result["advice"].items():
            stream = result["stream"]
            lines.append(regret(stream, name, told["answer"], compared, LIMITS[name]))
    text = "\n".join(lines)
    (options.out / "regret.md").write_text(text + "\n")
    rows = lines[2:]
    print(text)
    print(f"\nwithin {WITHIN:g} points: {sum(row.split('|')[6].strip() == 'yes' for row in rows)} of {len(rows)}")
    minutes = [told["minutes"] for result in found for told in result["advice"].values()]
    print(f"minutes of advice, at most: {max(minutes):.1f}")


if __name__ == "__main__":
    main()
