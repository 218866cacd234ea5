"""From parsed arguments to the request that they stand for, built once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from avalanche_vlm.catalogue import COMPARED
from avalanche_vlm.commands import flags
from avalanche_vlm.commands.living_requests import DiffRequest, RollbackRequest, UpdateRequest, VersionsRequest
from avalanche_vlm.commands.requests import (
    DATA_OPTIONS,
    SIZES,
    AdviseRequest,
    Assignment,
    CompareRequest,
    DiagnoseRequest,
    Limits,
    ListRequest,
    ModelRequest,
    Part,
    ReportRequest,
    RunRequest,
    Saving,
    StreamRequest,
    TrainChanges,
)
from avalanche_vlm.commands.use_requests import export_request, predict_request, retrieve_request
from avalanche_vlm.errors import InputError


def _run(options: argparse.Namespace) -> RunRequest:
    saving = Saving(model=not options.no_save, base=options.embed_base, tests=flags.kept_tests(options))
    if options.no_save and options.embed_base:
        raise InputError("--embed-base says how the model is saved, and --no-save that it is not: give one of them")
    return RunRequest(**_training(options), recipe=options.recipe, seed=options.seed, saving=saving)


def _compare(options: argparse.Namespace) -> CompareRequest:
    chosen = options.recipes is not None
    recipes = _once(options.recipes if chosen else COMPARED)
    saving = Saving(model=options.save_models, base=options.embed_base)
    if options.embed_base and not options.save_models:
        raise InputError("--embed-base says how models are saved: compare saves them with --save-models")
    return CompareRequest(**_training(options), recipes=recipes, chosen=chosen, seeds=options.seeds, saving=saving)


def _advise(options: argparse.Namespace) -> AdviseRequest:
    limits = Limits(
        max_bytes=options.max_bytes,
        raw_data=not options.no_raw_data,
        task_id=not options.no_task_id,
        max_train_seconds=options.max_train_seconds,
        keep_zero_shot=options.keep_zero_shot,
    )
    recipes = _once(options.recipes)
    return AdviseRequest(
        **_training(options), recipes=recipes, seed=options.seed, minutes=options.minutes, limits=limits
    )


def _diagnose(options: argparse.Namespace) -> DiagnoseRequest:
    return DiagnoseRequest(
        out=options.out,
        quiet=options.quiet,
        threads=options.threads,
        checkpoint_minutes=options.checkpoint_minutes,
    )


def _report(options: argparse.Namespace) -> ReportRequest:
    return ReportRequest(out=options.out)


def _list(options: argparse.Namespace) -> ListRequest:
    return ListRequest(what=options.what, name=options.name, as_json=options.json)


def _update(options: argparse.Namespace) -> UpdateRequest:
    if options.data is None and options.benchmark is None:
        raise InputError("update learns what is new: name it with --data PATH, or --benchmark NAME and --experience N")
    if options.data is not None and options.experience is not None:
        raise InputError("--experience is one of a --benchmark's; all tasks of --data are learned")
    limits = {name: getattr(options, name) for name in ("max_forget", "max_zero_shot_loss")}
    return UpdateRequest(
        out=options.out,
        quiet=options.quiet,
        threads=options.threads,
        stream=_stream(options),
        device=options.device,
        train=_changes(options),
        assignments=tuple(map(_assignment, options.set)),
        recipe=options.recipe,
        experiences=options.experience,
        tests=flags.kept_tests(options),
        limits={name: value for name, value in limits.items() if value is not None},
        promote=options.promote,
        held_out=options.held_out,
        as_json=options.json,
    )


def _versions(options: argparse.Namespace) -> VersionsRequest:
    return VersionsRequest(out=options.out, as_json=options.json)


def _rollback(options: argparse.Namespace) -> RollbackRequest:
    return RollbackRequest(out=options.out, version=options.version, anyway=options.anyway)


def _diff(options: argparse.Namespace) -> DiffRequest:
    return DiffRequest(
        out=options.out,
        threads=options.threads,
        first=options.first,
        second=options.second,
        as_json=options.json,
        pictures=options.pictures,
        examples=options.examples,
    )


def _training(options: argparse.Namespace) -> dict[str, Any]:
    """What the commands that train have in common."""
    return {
        "out": options.out,
        "quiet": options.quiet,
        "threads": options.threads,
        "checkpoint_minutes": options.checkpoint_minutes,
        "stream": _stream(options),
        "model": ModelRequest(
            name=options.model,
            pretrained=options.pretrained,
            precision=options.precision,
            image_size=options.image_size,
        ),
        "device": options.device,
        "train": _changes(options),
        "assignments": tuple(map(_assignment, options.set)),
    }


def _stream(options: argparse.Namespace) -> StreamRequest:
    named = (*SIZES, *DATA_OPTIONS)
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
        options={**sizes, **dict(map(_benchmark_option, options.option))},
    )


def _changes(options: argparse.Namespace) -> TrainChanges:
    return TrainChanges(
        lr=options.lr,
        epochs=options.epochs,
        batch_size=options.batch_size,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        train_classes=options.train_classes,
        amp=options.amp,
        num_workers=options.workers,
    )


def _one_stream(options: argparse.Namespace) -> str | None:
    """The benchmark, None for data of the user's own."""
    if options.data is None:
        return options.benchmark or "picturebook"
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


def _once(names: Sequence[str]) -> tuple[str, ...]:
    # A recipe that is named twice is one experiment.
    return tuple(dict.fromkeys(names))


REQUESTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "run": _run,
    "compare": _compare,
    "diagnose": _diagnose,
    "advise": _advise,
    "update": _update,
    "versions": _versions,
    "rollback": _rollback,
    "diff": _diff,
    "report": _report,
    "predict": predict_request,
    "retrieve": retrieve_request,
    "export": export_request,
    "list": _list,
}
"""What turns the arguments of each command into its request."""
