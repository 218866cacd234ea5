"""What the commands that train on a stream are asked: ``run``, ``compare``, ``diagnose`` and ``advise``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Annotated

from typing_extensions import Self

from avalanche_vlm.catalogue import COMPARED
from avalanche_vlm.commands.requests import shared
from avalanche_vlm.commands.requests.engine import EngineRequest, device_on, engine_request
from avalanche_vlm.commands.requests.parts import (
    Assignment,
    Part,
    Request,
    TorchSeed,
    TrainChanges,
    TrainingRequest,
    within,
)
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.settings import CHECKPOINT_MINUTES


class Saving(Part):
    """What is saved of a trained model.

    :param model: whether it is saved at all.
    :param base: whether the weights of its base are written along.
    :param tests: test samples of each experience and held-out set that are kept with it; None for the default.
    :param examples: test pictures whose answer changed that are kept for the report; None for the default.
    """

    model: bool = True
    base: bool = False
    tests: Annotated[int, within("keep_tests")] | None = None
    examples: Annotated[int, within("keep_examples")] | None = None


class RunRequest(TrainingRequest):
    """``run``: one experiment.

    :param recipe: name of the recipe.
    :param seed: seed of the training, and of the data unless the stream has one of its own.
    :param saving: what is saved of the trained model.
    :param log: names of the trackers that the training is logged to.
    :param shard: whether each of several processes keeps a part of the towers.
    """

    recipe: str = "fine-tune"
    seed: TorchSeed = 0
    saving: Saving = Saving()
    log: tuple[str, ...] = ()
    shard: bool = False

    def recipe_names(self) -> tuple[str, ...]:
        """The one recipe."""
        return (self.recipe,)


class Variant(Part):
    """One combination of the values that a sweep goes through.

    :param named: which values these are, by name: of training settings, and of recipes' options.
    :param train: training settings that differ from the defaults.
    :param assignments: options that recipes are given.
    """

    named: tuple[tuple[str, str], ...]
    train: TrainChanges
    assignments: tuple[Assignment, ...]


class CompareRequest(TrainingRequest):
    """``compare``: recipes and seeds side by side.

    :param recipes: names of the recipes, each once.
    :param chosen: whether the user named the recipes; without, those that lack a resource are left out.
    :param seeds: seeds of the training, each once, and of the data unless the stream has one of its own.
    :param saving: what is saved of the trained models.
    :param jobs: experiments that are run at once, each in a process of its own; None for as many as the machine has
        processors and memory for, one on CUDA. On a cluster, how many are run at once at most.
    :param engine: where they are run.
    :param variants: combinations of a sweep, each trained with every recipe that it is about; none without a sweep.
    :param log: names of the trackers that the trainings are logged to.
    """

    recipes: tuple[str, ...]
    chosen: bool = True
    seeds: tuple[TorchSeed, ...] = (0,)
    saving: Saving = Saving(model=False)
    jobs: Annotated[int, within("jobs")] | None = None
    engine: EngineRequest = EngineRequest()
    variants: tuple[Variant, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> bool:
        return self.engine.elsewhere

    def recipe_names(self) -> tuple[str, ...]:
        """The recipes side by side."""
        return self.recipes

    def each(self) -> tuple[Self, ...]:
        """The request, or of a sweep one for each combination of its values."""
        told = [{"train": one.train, "assignments": one.assignments, "variants": (one,)} for one in self.variants]
        return tuple(self.model_copy(update=of) for of in told) or (self,)


class Limits(Part):
    """What advice must keep within; see :class:`~avalanche_vlm.studies.advice.constraints.Constraints`.

    :param max_bytes: bytes stored between tasks, RAM and disk together; None for no limit.
    :param raw_data: whether samples of the user's may be kept.
    :param task_id: whether a prediction may ask for its sample's task.
    :param max_train_seconds: seconds of training on all data; None for no limit.
    :param keep_zero_shot: points that the held-out sets may lose.
    """

    max_bytes: Annotated[int, within("max_bytes")] | None = None
    raw_data: bool = True
    task_id: bool = True
    max_train_seconds: Annotated[float, within("max_train_seconds")] | None = None
    keep_zero_shot: Annotated[float, within("keep_zero_shot")] = 2.0


class AdviseRequest(TrainingRequest):
    """``advise``: pilots, a recommendation, a plan.

    :param recipes: names of the recipes to try, each once.
    :param seed: seed of the training, and of the data unless the stream has one of its own.
    :param minutes: minutes that all of it may take, by the clock on the wall.
    :param limits: constraints on what is recommended.
    :param jobs: pilots that are run at once, each in a process of its own; None for as many as the machine has
        processors and memory for, one on CUDA. On a cluster, how many are run at once at most.
    :param engine: where they are run.
    """

    recipes: tuple[str, ...]
    seed: TorchSeed = 0
    minutes: Annotated[float, within("minutes")] = 4.5
    limits: Limits = Limits()
    jobs: Annotated[int, within("jobs")] | None = None
    engine: EngineRequest = EngineRequest()

    def recipe_names(self) -> tuple[str, ...]:
        """The recipes that are tried."""
        return self.recipes


class DiagnoseRequest(Request):
    """``diagnose``: the run of a folder again, with probes.

    :param checkpoint_minutes: minutes from one checkpoint within an experience to the next; None for checkpoints at the
        experiences' ends alone.
    :param trust_remote_code: whether code that comes with the run's model may run.
    """

    checkpoint_minutes: Annotated[float, within("checkpoint_minutes")] | None = CHECKPOINT_MINUTES
    trust_remote_code: bool = False


def run_request(options: argparse.Namespace) -> RunRequest:
    """The request of ``run``.

    :param options: arguments as argparse has parsed them.
    :raises InputError: for arguments that exclude each other.
    """
    saving = Saving(
        model=not options.no_save,
        base=options.embed_base,
        tests=shared.kept(options, "keep_tests"),
        examples=shared.kept(options, "keep_examples"),
    )
    if options.no_save and options.embed_base:
        raise InputError("--embed-base says how the model is saved, and --no-save that it is not: give one of them")
    return RunRequest(
        **shared.training(options),
        recipe=options.recipe,
        seed=options.seed,
        saving=saving,
        log=_once(options.log),
        shard=options.shard,
    )


def compare_request(options: argparse.Namespace) -> CompareRequest:
    """The request of ``compare``.

    :param options: arguments as argparse has parsed them.
    :raises InputError: for arguments that exclude each other.
    """
    chosen = options.recipes is not None
    recipes = _once(options.recipes if chosen else COMPARED)
    saving = Saving(
        model=options.save_models,
        base=options.embed_base,
        tests=shared.kept(options, "keep_tests"),
        examples=shared.kept(options, "keep_examples"),
    )
    if options.embed_base and not options.save_models:
        raise InputError("--embed-base says how models are saved: compare saves them with --save-models")
    engine = engine_request(options)
    return CompareRequest(
        **{**shared.training(options), "device": device_on(engine, options.device)},
        recipes=recipes,
        chosen=chosen,
        seeds=options.seeds,
        saving=saving,
        jobs=options.jobs,
        engine=engine,
        log=_once(options.log),
    )


def advise_request(options: argparse.Namespace) -> AdviseRequest:
    """The request of ``advise``.

    :param options: arguments as argparse has parsed them.
    """
    limits = Limits(
        max_bytes=options.max_bytes,
        raw_data=not options.no_raw_data,
        task_id=not options.no_task_id,
        max_train_seconds=options.max_train_seconds,
        keep_zero_shot=options.keep_zero_shot,
    )
    recipes, engine = _once(options.recipes), engine_request(options)
    return AdviseRequest(
        **{**shared.training(options), "device": device_on(engine, options.device)},
        recipes=recipes,
        seed=options.seed,
        minutes=options.minutes,
        limits=limits,
        jobs=options.jobs,
        engine=engine,
    )


def diagnose_request(options: argparse.Namespace) -> DiagnoseRequest:
    """The request of ``diagnose``.

    :param options: arguments as argparse has parsed them.
    """
    return DiagnoseRequest(
        out=options.out,
        quiet=options.quiet,
        threads=options.threads,
        checkpoint_minutes=options.checkpoint_minutes,
        trust_remote_code=options.trust_remote_code,
    )


def _once(names: Sequence[str]) -> tuple[str, ...]:
    # A recipe that is named twice is one experiment, a tracker one log.
    return tuple(dict.fromkeys(names))
