"""A stream of pairs from the plan of a published benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.context import note_cut_captions
from avalanche_vlm.benchmarks.datasets.declaration import PairSet
from avalanche_vlm.benchmarks.families.base import Options
from avalanche_vlm.benchmarks.families.building import clip_transform, note_other_sizes, own_protocol
from avalanche_vlm.benchmarks.families.image_text import PairPlan, PairStream
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.scenario import DataReport, PairDataset, PairTransform, VLMBenchmark, as_experience_data
from avalanche_vlm.benchmarks.sources.captioned import CaptionedPart, CaptionedSet
from avalanche_vlm.benchmarks.sources.checking import left_out
from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.errors import InputError


def built_pairs(
    benchmark: PairStream,
    options: Options,
    train_transform: Callable | None,
    eval_transform: Callable | None,
    tokenizer: Callable | None,
) -> VLMBenchmark:
    """The stream of a published benchmark of images with captions.

    :param benchmark: what was declared.
    :param options: values of all options.
    :param train_transform: transform of training images; CLIP's of 224 pixels for None.
    :param eval_transform: transform of test images; CLIP's of 224 pixels for None.
    :param tokenizer: the model's tokenizer.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    if tokenizer is None:
        raise InputError(f"benchmark {benchmark.name} is a stream of captions: give the model's tokenizer")
    root, problems = Path(options["root"]).expanduser(), Problems(options["on_error"])
    declared = benchmark.sets(options)
    read = [of.load(root, problems) for of in declared]
    problems.notes += [*benchmark.notes_with(options), *(f"{of.title}: {note}" for of in declared for note in of.notes)]
    note_other_sizes([other_numbers(of, found) for of, found in zip(declared, read, strict=True)], problems)
    plans = _readable(benchmark.plans(read, options), root, options, problems)
    drawn = {plan.name: plan.drawn for plan in plans if plan.drawn is not None}
    parts = ("train", "test", *(("valid",) if all(plan.valid for plan in plans) else ()))
    default = clip_transform()
    shown = {
        part: PairTransform((train_transform if part == "train" else eval_transform) or default, tokenizer)
        for part in ("train", "test")
    }
    identities = Identities()
    streams: dict[str, list[Any]] = {part: [] for part in parts}
    for number, plan in enumerate(plans):  # task by task: the numbers of a task do not depend on tasks to come
        for part in parts:
            rows: CaptionedPart = getattr(plan, part)
            images = ImageFiles(rows.images)
            pairs = PairDataset(images, rows.captions, identities, problems.stand_ins(images))
            streams[part].append(as_experience_data(pairs, shown["train"], shown["test"], number))
    found = VLMBenchmark(
        benchmark.name,
        "pairs",
        streams["train"],
        streams["test"],
        task_names=[plan.name for plan in plans],
        further={"valid": streams["valid"]} if "valid" in streams else {},
        data=DataReport(
            problems.skipped, list(dict.fromkeys(problems.notes)), chosen=drawn, passed_over=problems.passed_over
        ),
        protocol={
            **own_protocol(options),
            **benchmark.facts,
            "root": str(root),
            "sets": [of.name for of in declared],
            "split_seed": options["seed"] if options["captions"] or drawn else None,
            **{f"n_{part}": [len(getattr(plan, part)) for plan in plans] for part in parts},
            "order": [plan.name for plan in plans],
        },
    )
    note_cut_captions(found, tokenizer)
    return found


def other_numbers(of: PairSet, found: CaptionedSet) -> str | None:
    """The words on pairs of other numbers than were published; None where they are those.

    :param of: what is declared of the data set.
    :param found: what was read.
    """
    wrong = []
    for what, published in (("images", of.sizes), ("captions", of.captions)):
        for part, number in published.items():
            if (rows := found.parts.get(part)) is not None:
                have = len(rows.files() if what == "images" else rows)
                wrong += [f"{have:,} {what} ({part}), not {number:,}"] if have != number else []
    return f"{of.summary} has {', and '.join(wrong)}" if wrong else None


def _readable(plans: list[PairPlan], root: Path, options: Options, problems: Problems) -> list[PairPlan]:
    """The tasks with images that can be read; the others are problems."""
    wanted = [path for plan in plans for rows in (plan.train, plan.test, plan.valid) if rows for path in rows.images]
    bad = left_out(wanted, root, problems, options["check"], options["check_workers"])

    def good(rows: CaptionedPart) -> CaptionedPart:
        return rows.at(row for row, path in enumerate(rows.images) if path not in bad) if bad else rows

    found = [
        replace(plan, train=good(plan.train), test=good(plan.test), valid=plan.valid and good(plan.valid))
        for plan in plans
    ]
    for plan in found:
        for what, rows in (("training", plan.train), ("test", plan.test)):
            if not rows:
                raise InputError(f"task {plan.name!r} has no {what} images")
    return found
