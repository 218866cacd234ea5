"""One experiment: a benchmark, a recipe and a seed give a result with its protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.logging import BaseLogger
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.context import note_cut_captions
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError, NotFinite, VLMWarning
from avalanche_vlm.evaluation.cells import tasks_measured
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.ledger import Ledger
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.account import RunAccount
from avalanche_vlm.studies.durable import made_durable
from avalanche_vlm.studies.feasible import (
    refuse_undeclared,
    refuse_unsuited,
    refuse_untrainable,
    resources,
    trains,
)
from avalanche_vlm.studies.outcome import (
    Outcome,
    Result,
    declared_figures,
    protocol_of,
    scores_of,
    with_figures,
)
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.checkpoint import CheckpointPlugin, resume
from avalanche_vlm.training.plugins import ProgressPlugin, WarmupCosinePlugin
from avalanche_vlm.training.precision import rounding_factors
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.shardable import refuse_alone


def run_experiment(
    benchmark: VLMBenchmark,
    recipe: str,
    *,
    model: VLM,
    settings: TrainSettings,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[SupervisedPlugin] = (),
    metrics: Sequence[PluginMetric] = (),
    seed: int = 0,
    task_id: bool = False,
    device: str | torch.device = "cpu",
    shard: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    on_row: Callable[[int, np.ndarray], None] | None = None,
    on_step: Callable[[int, np.ndarray], None] | None = None,
    evaluate: bool = True,
    checkpoint: CheckpointPlugin | None = None,
    on_resume: Callable[[CheckpointPlugin], None] | None = None,
    loggers: Sequence[BaseLogger] | Callable[[Mapping[str, Any], bool], Sequence[BaseLogger]] = (),
) -> Outcome:
    """Train a stream with a recipe; evaluate before it and after every experience, or as far as ``settings`` say
    (``eval_tasks``, ``eval_every``): figures that need what was not measured are None then.

    :param benchmark: train and test stream, label space, held-out sets.
    :param recipe: name of a recipe.
    :param model: trained in place.
    :param settings: settings of the optimizer and of the loop.
    :param options: the recipe's options by name; those that are not given have the recipe's defaults.
    :param plugins: further plugins, after the recipe's: what they store counts, and no result names them.
    :param metrics: further metrics for the evaluator. The figures that one declares
        (:class:`~avalanche_vlm.evaluation.base.VLMMetric`) join the result; one that declares none, such as a probe,
        leaves the result as it is. What metrics keep is no part of the recipe's costs.
    :param seed: seed of what the training draws; the data's is the benchmark's own.
    :param task_id: choose each test sample's module by its task label, as an oracle would.
    :param device: where to run.
    :param shard: whether each of several processes keeps a part of the towers
        (:mod:`~avalanche_vlm.training.sharding`). The model is left where it is then, but while it trains or answers:
        make it on the CPU if a device has no room for the whole.
    :param progress: called as ``(experience, iteration, iterations)``.
    :param on_row: called as ``(step, matrix)`` when a row of the matrix is measured, with scores in [0, 1]; again for a
        row after which the run was interrupted, and not for those before.
    :param on_step: called likewise after every experience and what is evaluated after it, be it nothing.
    :param evaluate: without, there are no scores in the result, and the model is the caller's to evaluate.
    :param checkpoint: writes the run to its folder meanwhile. With a folder in which the same run was interrupted, it
        goes on there, and ends as if it had not been interrupted; the folder stays, :meth:`CheckpointPlugin.remove
        <avalanche_vlm.training.checkpoint.plugin.CheckpointPlugin.remove>` removes it. With ``strict=False`` a run that
        no checkpoint could have, because nobody knows what one of its plugins or metrics keeps, runs without any.
    :param on_resume: called with the plugin before an interrupted run goes on.
    :param loggers: the evaluator's loggers, any of Avalanche's; or a function that makes them, called with the protocol
        and with whether the training goes on from a checkpoint, before anything is trained. They change nothing, and
        one with a method ``flush`` is asked to before a checkpoint is written.
    :raises InputError: for unusable input, such as a task with fewer samples than the recipe needs; what was computed
        before is in the rows already reported. :class:`~avalanche_vlm.errors.NotFinite` for a loss, weights, features
        or logits that are NaN or infinite, naming recipe and experience. Also for a checkpoint of another run, naming
        the difference.
    """
    torch.manual_seed(seed)
    declared_figures(metrics)  # names that clash are refused before anything is trained
    passed_over = benchmark.data.passed_over
    passed_over.forget()  # what another run on the same benchmark has met
    options = recipes.check_options(recipe, options or {})
    settings = settled(settings, recipe, benchmark.kind, plugins)
    if shard:
        refuse_alone()
    else:
        model.to(device)
    taken = resources(recipe, benchmark)
    protocol = protocol_of(
        benchmark, model, recipe, options, settings, seed=seed, task_id=task_id, device=device, plugins=plugins
    )
    note_cut_captions(benchmark, model.tokenizer)
    ledger = Ledger(model, benchmark, torch.device(device))
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    model.competing.in_training = settings.train_classes or "current"
    own = recipes.build(recipe, model=model, **taken, **options)
    plugins = [*own, *plugins]
    refuse_undeclared(recipe, model, plugins, settings)
    refuse_untrainable(recipe, benchmark, plugins, settings)
    refuse_unsuited(recipe, model, plugins, settings, metrics if shard else None)
    if task_id:
        if model.routed is None:
            raise InputError(f"recipe {recipe} does not choose among modules, so a task id at test changes nothing")
        model.routed.use_task_labels = True
    if any(p.dtype == torch.float16 for p in model.trainable_parameters().values()) and trains(plugins):
        raise InputError(
            f"{model.name} has weights in fp16 that train, and AdamW divides by an epsilon that is zero there: "
            "create the model in fp32 (with amp where it should be fast) or bf16"
        )
    matrix, held_out, classes = PerformanceMatrix(), HeldOutScores(benchmark.held_out), ClassAccuracies()
    account = RunAccount(ledger, plugins)
    rates = settings.rates or {}
    if unknown := [task for task in rates if task not in benchmark.task_names]:
        warnings.warn(
            f"rates of {', '.join(unknown)} are of no use: the stream's tasks are {', '.join(benchmark.task_names)}",
            VLMWarning,
            stacklevel=2,
        )
    factors = {n: rates[task] / settings.lr for n, task in enumerate(benchmark.task_names) if task in rates}
    further = [WarmupCosinePlugin(settings.warmup, factors=factors), ProgressPlugin(progress), account]
    strategy = strategy_of(
        model,
        benchmark.kind,
        settings,
        [ledger.plugin, *plugins, *further, *([] if checkpoint is None else [checkpoint])],
        *(matrix, held_out, classes, *metrics),
        device=device,
        loggers=() if callable(loggers) else loggers,
        shard=shard,
    )

    if checkpoint is not None:
        checkpoint.also |= {"passed_over": passed_over} if passed_over else {}
        checkpoint = made_durable(checkpoint, strategy, account, protocol)

    def report(measured: bool) -> None:
        for call in (on_row if measured else None, on_step):
            if call is not None:
                call(account.rows, matrix.rows())

    try:
        with account.whole.running(), rounding_factors(settings.tf32):
            first = 0 if checkpoint is None else resume(strategy, checkpoint.folder)
            if checkpoint is not None and checkpoint.resumed is not None and on_resume is not None:
                on_resume(checkpoint)
            if callable(loggers):
                strategy.evaluator.loggers.extend(loggers(protocol, bool(checkpoint and checkpoint.resumed)))
            _train(strategy, benchmark, first, settings, account, report if evaluate else None)
    except NotFinite as error:
        raise NotFinite(f"recipe {recipe}: {error}") from error
    finally:
        ledger.plugin.close()
    found = {
        "protocol": protocol,
        "tasks": list(benchmark.task_names),
        "data": benchmark.data.as_json(),
        **scores_of(benchmark, matrix, held_out, classes, evaluate),
        "costs": ledger.costs,
    }
    result = cast("Result", found)
    timing = account.timing()
    entry = ledger.entry(protocol["resources"], plugins, timing["train_seconds"])
    return Outcome(with_figures(result, metrics), timing, strategy, entry, tuple(own), account.seconds_before)


def _train(
    strategy: VLMNaive,
    benchmark: VLMBenchmark,
    first: int,
    settings: TrainSettings,
    account: RunAccount,
    report: Callable[[bool], None] | None,
) -> None:
    """Train the stream, and evaluate at the steps that are asked for.

    :param strategy: trained in place.
    :param benchmark: train and test stream.
    :param first: number of the experience to begin with, from 0 on.
    :param settings: how many processes load data, and what is evaluated at which step.
    :param account: gets the seconds, and counts the rows; of an interrupted run it knows what is done.
    :param report: called after every step with whether it was evaluated; None evaluates nothing.
    """

    def score() -> None:
        if report is None:
            return
        tasks = len(benchmark.test_stream)
        count = tasks_measured(account.rows, tasks, settings.eval_tasks, settings.eval_every)
        if count:
            with account.evaluation.running():
                strategy.eval(benchmark.test_stream[:count], num_workers=settings.num_workers)
        report(count > 0)
        account.rows += 1

    if not account.resumed:
        score()
    for experience in list(benchmark.train_stream)[first:]:
        with account.training.running():
            strategy.train(experience, num_workers=settings.num_workers)
        score()
