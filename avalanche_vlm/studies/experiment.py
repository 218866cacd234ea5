"""One experiment: a benchmark, a recipe and a seed give a result with its protocol."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.ledger import Ledger
from avalanche_vlm.evaluation.matrix import HeldOutScores, PerformanceMatrix
from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import ProgressPlugin, WarmupCosinePlugin
from avalanche_vlm.training.settings import TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    :param result: plain JSON types; the same seed gives the same result on CPU.
    :param timing: seconds of training and evaluation, which do not; of training also those of processor time, all
        threads together, which other processes on the machine disturb less.
    :param strategy: the strategy as it ended, model and plugins included.
    :param ledger: what it cost (:class:`~avalanche_vlm.evaluation.ledger.Ledger`), times and memory included, which
        differ from run to run.
    """

    result: dict[str, Any]
    timing: dict[str, float]
    strategy: VLMNaive
    ledger: dict[str, Any]


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
    progress: Callable[[int, int, int], None] | None = None,
    on_row: Callable[[int, Any], None] | None = None,
    evaluate: bool = True,
) -> Outcome:
    """Train a stream with a recipe; evaluate before it and after every experience.

    :param benchmark: train and test stream, label space, held-out sets.
    :param recipe: name of a recipe.
    :param model: trained in place.
    :param settings: of the optimizer.
    :param options: of the recipe.
    :param plugins: more of them, after the recipe's: what they store counts, and no result names them.
    :param metrics: for the evaluator, such as probes; what they keep is no part of the method's costs.
    :param seed: of everything that is drawn.
    :param task_id: choose each test sample's module by its task label, as an oracle would.
    :param device: where to run.
    :param progress: called as ``(experience, iteration, iterations)``.
    :param on_row: called as ``(step, matrix)`` when a row of the matrix is complete, with scores in [0, 1].
    :param evaluate: without, there are no scores in the result, and the model is the caller's to evaluate.
    :raises InputError: for unusable input; what was computed before is in the rows already reported.
    """
    torch.manual_seed(seed)
    options = dict(options or {})
    ledger = Ledger(model.to(device), benchmark)
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    plugins = [*recipes.build(recipe, model=model, **resources(recipe, benchmark), **options), *plugins]
    if task_id:
        if model.routed is None:
            raise InputError(f"recipe {recipe} does not choose among modules, so a task id at test changes nothing")
        model.routed.use_task_labels = True
    matrix, held_out = PerformanceMatrix(), HeldOutScores(benchmark.held_out)
    helpers: list[SupervisedPlugin] = [WarmupCosinePlugin(settings.warmup)]
    if progress is not None:
        helpers.append(ProgressPlugin(progress))
    with warnings.catch_warnings():
        # Avalanche warns that nothing is logged; the matrix is what we log.
        warnings.filterwarnings("ignore", message="No loggers specified")
        evaluator = EvaluationPlugin(matrix, held_out, *metrics, loggers=[])
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay),
        criterion=criterion_for(benchmark.kind, model),
        train_mb_size=settings.batch_size,
        train_epochs=settings.epochs,
        eval_mb_size=256,
        device=torch.device(device),
        plugins=[ledger.plugin, *plugins, *helpers],
        evaluator=evaluator,
        amp=settings.amp,
        max_grad_norm=settings.max_grad_norm,
    )
    workers = {"num_workers": settings.num_workers}
    timing = {"train_seconds": 0.0, "train_cpu_seconds": 0.0, "eval_seconds": 0.0}

    def score(step: int) -> None:
        if not evaluate:
            return
        started = time.perf_counter()
        strategy.eval(benchmark.test_stream, **workers)
        timing["eval_seconds"] += time.perf_counter() - started
        if on_row is not None:
            on_row(step, matrix.rows())

    score(0)
    try:
        for step, experience in enumerate(benchmark.train_stream, start=1):
            started, started_cpu = time.perf_counter(), time.process_time()
            strategy.train(experience, **workers)
            timing["train_seconds"] += time.perf_counter() - started
            timing["train_cpu_seconds"] += time.process_time() - started_cpu
            ledger.after_experience(plugins, strategy.optimizer)
            score(step)
    finally:
        ledger.plugin.close()

    result = {
        "protocol": {
            "benchmark": benchmark.name,
            **benchmark.protocol,
            **(benchmark.label_space.describe() if benchmark.label_space else {"label_space": None}),
            "task_id_at_test": task_id,
            "model": model.name,
            "recipe": recipe,
            "recipe_options": {**recipes.get(recipe).settings, **options},
            "train": asdict(settings),
            "seed": seed,
            "device": torch.device(device).type,
            "versions": versions(),
            "unit": "percent",
        },
        "tasks": list(benchmark.task_names),
        "data": {"skipped": list(benchmark.data.skipped)},
        "matrix": [[_percent(v) for v in row] for row in matrix.rows()] if evaluate else [],
        "held_out": {name: [_percent(v) for v in values] for name, values in held_out.result().items()},
        "alignment": {name: [_plain(v) for v in values] for name, values in held_out.alignment().items()},
        "metrics": {name: _percent(v) for name, v in matrix.survey().items()} if evaluate else {},
        "costs": ledger.costs,
    }
    entry = ledger.entry(recipes.get(recipe).needs, plugins, timing["train_seconds"])
    return Outcome(result, {k: round(v, 2) for k, v in timing.items()}, strategy, entry)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("avalanche-vlm", "avalanche-lib", "torch", "open_clip_torch", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return found


_HINTS = {
    "reference": "reference pairs: give some with --reference FILE",
    "generator": "a generator of pictures: name one with --generator MODEL",
}


def lacks(recipe: str, source: object, resource: str) -> str:
    """The sentence on a resource that a recipe needs and a source of data does not bring."""
    return f"recipe {recipe} needs what {source} does not bring, {_HINTS[resource]}"


def resources(recipe: str, benchmark: VLMBenchmark) -> dict[str, Any]:
    """What the recipe takes of what the benchmark brings.

    :raises InputError: if they do not fit together.
    """
    chosen = recipes.get(recipe)
    if benchmark.kind not in chosen.kinds:
        raise InputError(
            f"recipe {recipe} is for streams of {chosen.kinds[0]}, and {benchmark.name} is one of {benchmark.kind}"
        )
    for name in chosen.needs:
        if getattr(benchmark, name) is None:
            raise InputError(lacks(recipe, benchmark.name, name))
    return {name: getattr(benchmark, name) for name in chosen.takes}


def _percent(value: float) -> float | None:
    """Percent with four decimals; None (JSON's null) for a missing value."""
    return _plain(100 * value)


def _plain(value: float) -> float | None:
    return None if value != value else round(float(value), 4)
