"""From parsed arguments to the parts of requests that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from avalanche_vlm.benchmarks.aside import published_aside
from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.commands.arguments.shared import BENCHMARK
from avalanche_vlm.commands.requests.parts import Assignment, ModelRequest, StreamRequest, TrainChanges
from avalanche_vlm.errors import InputError

SIZES = ("n_train", "n_test", "n_held_out", "n_reference")
"""Options of benchmarks that the command line has flags of their own for."""

FILES = ("root",)
"""Options of published benchmarks that the command line has flags of their own for."""

CHECKS = ("check", "check_workers")
"""Options on how images of a user's own data are checked before training."""

DATA_OPTIONS = (
    "class_names",
    "kind",
    "image_root",
    "split_classes",
    "class_order",
    "image_column",
    "label_column",
    "caption_column",
    "task_column",
    "domain_column",
    "time_column",
    "steps",
    "split_column",
    "shots",
    *CHECKS,
)
"""Options of a user's own data that the command line has flags of their own for."""


def training(options: argparse.Namespace) -> dict[str, Any]:
    """What requests of the commands that train have in common.

    :param options: arguments as argparse has parsed them.
    :return: values of fields by their names.
    """
    return {
        "out": options.out,
        "quiet": options.quiet,
        "threads": options.threads,
        "checkpoint_minutes": options.checkpoint_minutes,
        "stream": sized(stream(options), options.full),
        "model": ModelRequest(
            name=options.model,
            pretrained=options.pretrained,
            precision=options.precision,
            image_size=options.image_size,
            trust_remote_code=options.trust_remote_code,
        ),
        "device": options.device,
        "train": changes(options),
        "assignments": assignments(options),
    }


def stream(options: argparse.Namespace) -> StreamRequest:
    """Which stream of tasks.

    :param options: arguments as argparse has parsed them.
    :raises InputError: unless one stream is named.
    """
    named = (*SIZES, *FILES, *DATA_OPTIONS)
    sizes = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    return StreamRequest(
        benchmark=_one_stream(options),
        data=options.data,
        on_error=options.on_error,
        label_space=options.label_space,
        order=options.order,
        template=options.template,
        reference=options.reference,
        generator=options.generator,
        seed=options.data_seed,
        held_out=options.held_out,
        held_out_root=_folder_of_held_out(options),
        options={**sizes, **dict(map(_benchmark_option, options.option))},
    )


def _folder_of_held_out(options: argparse.Namespace) -> str | None:
    """The folder of published data sets that are held out: that of the stream's, unless another is named."""
    if options.held_out_root is not None and not options.held_out:
        raise InputError("--held-out-root does not apply without --held-out")
    if options.held_out_root is not None and not any(map(published_aside, options.held_out)):
        raise InputError(
            "--held-out-root does not apply to folders and tables, only to published data sets by their names"
        )
    published = any(map(published_aside, options.held_out))
    return (options.held_out_root or options.root) if published else None


def sized(asked: StreamRequest, full: bool) -> StreamRequest:
    """A stream in the sizes of a first look, as its benchmark declares them, where nothing else is said.

    The request has them as if they had been written: stored, compared and shown as any other option.

    :param asked: the stream as the command line names it.
    :param full: whether the benchmark's own sizes are taken.
    :raises InputError: if the full sizes are asked for of what has no others.
    """
    quick = {} if asked.benchmark is None else get_benchmark(asked.benchmark).quick
    if not full:
        return asked.model_copy(update={"options": {**quick, **asked.options}})
    if not quick:
        whole = "--data, which is taken whole" if asked.benchmark is None else f"{asked.benchmark}, which has one size"
        raise InputError(f"--full does not apply to {whole}")
    return asked


def changes(options: argparse.Namespace) -> TrainChanges:
    """Training settings that were given.

    :param options: arguments as argparse has parsed them.
    """
    return TrainChanges(
        published=getattr(options, "published", False),
        lr=options.lr,
        epochs=_passes(options),
        iterations=options.iterations,
        batch_size=options.batch_size,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        train_classes=options.train_classes,
        train_templates=options.train_templates,
        negatives=options.negatives,
        max_grad_norm=options.max_grad_norm,
        rates=dict(options.rate) or None,
        amp=options.amp,
        accumulate=options.accumulate,
        grad_checkpointing=options.grad_checkpointing,
        tf32=options.tf32,
        compile=options.compile,
        num_workers=options.workers,
        eval_tasks=getattr(options, "eval", None),
        eval_every=getattr(options, "eval_every", None),
    )


def _passes(options: argparse.Namespace) -> int | None:
    """Passes over each task that were asked for, by number or as one of an online stream."""
    if not options.online:
        return options.epochs
    for name, other in (("epochs", options.epochs not in (None, 1)), ("iterations", options.iterations is not None)):
        if other:
            said = getattr(options, name)
            raise InputError(f"--online is one pass over each task, and --{name} says {said}: give one of them")
    return 1


def assignments(options: argparse.Namespace) -> tuple[Assignment, ...]:
    """Options that recipes are given, each once: of two values the later one counts.

    :param options: arguments as argparse has parsed them.
    :raises InputError: for one without a value.
    """
    found: dict[tuple[str | None, str], Assignment] = {}
    for one in map(_assignment, options.set):
        found.pop((one.recipe, one.option), None)  # behind what came between them
        found[one.recipe, one.option] = one
    return tuple(found.values())


def kept(options: argparse.Namespace, name: str) -> int | None:
    """How many test samples are to be kept.

    :param options: arguments as argparse has parsed them.
    :param name: the option that says how many, as Python has it: ``"keep_tests"`` or ``"keep_examples"``.
    :return: the number; None where nothing was said.
    :raises InputError: if both that some are kept and that none are was said.
    """
    number: int | None = getattr(options, name)
    if options.no_raw_data and number:
        option = f"--{name.replace('_', '-')}"
        raise InputError(f"{option} {number} keeps raw data, and --no-raw-data none: give one of them")
    return 0 if options.no_raw_data else number


def _one_stream(options: argparse.Namespace) -> str | None:
    """The benchmark, None for data of the user's own."""
    if options.data is None:
        return options.benchmark or BENCHMARK
    if not options.data:
        raise InputError("--data: the path is empty")
    if options.benchmark is not None:
        raise InputError(f"--benchmark {options.benchmark} and --data {options.data} are two streams: give one of them")
    return None


def _assignment(text: str) -> Assignment:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: write OPTION=VALUE or RECIPE.OPTION=VALUE")
    recipe, _, option = name.rpartition(".")
    return Assignment(text=text, recipe=recipe or None, option=option, value=value)


def _benchmark_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--option {text}: write NAME=VALUE")
    try:
        found = json.loads(value)
        json.dumps(found, allow_nan=False)  # a stored request has no NaN and no infinity
    except (ValueError, RecursionError):
        return name, value
    return name, found
