"""What an experiment came to: protocol, scores, figures and costs as plain JSON types."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm._versions import package_versions
from avalanche_vlm.artifacts import save_model
from avalanche_vlm.artifacts.noted import base_along, noted
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.chance import guesses
from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.evaluation.figures import list_figures
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies, class_records
from avalanche_vlm.evaluation.results import LedgerEntry, Result, Scored, Timing
from avalanche_vlm.models import VLM
from avalanche_vlm.models.fingerprint import text_libraries
from avalanche_vlm.studies.conditions import conditions_of, resources_in_use
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.protocol import model_of
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    :param result: plain JSON types; the same seed gives the same result on CPU.
    :param timing: seconds, which differ from run to run.
    :param strategy: the strategy as it ended, model and plugins included.
    :param ledger: what the recipe cost (:class:`~avalanche_vlm.evaluation.ledger.Ledger`), times and memory included,
        which differ from run to run.
    :param plugins: the recipe's own plugins, without those that trained along.
    :param seconds_before: seconds that earlier processes took for what it goes on from, if it was interrupted.
    """

    result: Result
    timing: Timing
    strategy: VLMNaive
    ledger: LedgerEntry
    plugins: tuple[SupervisedPlugin, ...] = ()
    seconds_before: float = 0.0

    def save(
        self,
        folder: str | Path,
        *,
        embed_base: bool | None = None,
        version: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the trained model with its protocol, figures and costs, and the state that training goes on from.
        Recipes that were built on it before the experiment, as on a model that was loaded, are saved with it.

        :param folder: gets ``versions`` and ``model``, as :func:`~avalanche_vlm.artifacts.save_model` says it.
        :param embed_base: whether the base's weights are written along, so that nothing else is needed to load; None
            for what was done where the model was loaded from.
        :param version: name of the version, which takes the place of one that is there; None for the next one.
        :param about: what else is to be kept, in JSON types.
        :return: the version's folder.
        :raises InputError: if the model cannot be saved so that it can be loaded, or a file cannot be written.
        """
        protocol = self.result["protocol"]
        model = model_of(self.strategy)
        base, embedded = base_along(model, None, embed_base)
        steps = noted(model)
        return save_model(
            folder,
            model,
            recipe=protocol["recipe"],
            options=protocol["recipe_options"],
            resources=tuple(protocol["resources"]),
            frozen=steps[-1].frozen if len(steps) > 1 else None,
            earlier=steps[:-1],
            plugins=self.plugins,
            result=self.result,
            ledger=self.ledger,
            base=base,
            embed_base=embedded,
            version=version,
            about=about,
        )


def protocol_of(
    benchmark: VLMBenchmark,
    model: VLM,
    recipe: str,
    options: Mapping[str, Any],
    settings: TrainSettings,
    *,
    seed: int,
    task_id: bool,
    device: str | torch.device,
    plugins: Sequence[SupervisedPlugin] = (),
    conditions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that decides the figures of an experiment. Where data and files lie is said as well, as ``path``, and
    decides nothing (:mod:`~avalanche_vlm.evaluation.comparable` says what may share a table).

    :param benchmark: stream, label space and held-out sets.
    :param model: the model as it is before the recipe is built on it.
    :param recipe: name of the recipe.
    :param options: the recipe's options that were given; its defaults are added.
    :param settings: settings of the optimizer.
    :param seed: seed of what the training draws; that of the data is the benchmark's.
    :param task_id: whether modules are chosen by each test sample's task label.
    :param device: where it runs.
    :param plugins: further plugins that train along, of which the classes are named, each with its settings: attributes
        without a leading underscore that are numbers, words or truth values.
    :param conditions: what :func:`~avalanche_vlm.studies.conditions.conditions_of` says of benchmark and model, where
        that is known already; by default it is found out here.
    """
    return {
        **(conditions_of(benchmark, model) if conditions is None else conditions),
        "task_id_at_test": task_id,
        "recipe": recipe,
        "recipe_options": recipes.all_options(recipe, options),
        "resources": resources_in_use(benchmark, recipe, options),
        "train": asdict(settled(settings, recipe, benchmark.kind)),
        "plugins": [_told(plugin) for plugin in plugins],
        "seed": seed,
        "device": torch.device(device).type,
        "versions": package_versions(*text_libraries(model)),
        "unit": "percent",
    }


def scores_of(
    benchmark: VLMBenchmark,
    matrix: PerformanceMatrix,
    held_out: HeldOutScores,
    classes: ClassAccuracies,
    evaluated: bool,
) -> Scored:
    """The scores of a result, and what guessing would come to.

    :param benchmark: the stream, whose test sets were evaluated.
    :param matrix: cells of the stream that was trained.
    :param held_out: curves of the held-out sets.
    :param classes: accuracies of the classes.
    :param evaluated: whether the strategy evaluated at every step; without, there is no matrix.
    """
    names = () if benchmark.label_space is None else benchmark.label_space.class_names
    found = {
        "matrix": percent_rows(matrix.rows()) if evaluated else [],
        "held_out": {name: [_percent(v) for v in values] for name, values in held_out.result().items()},
        "alignment": {name: [_plain(v) for v in values] for name, values in held_out.alignment().items()},
        "metrics": {name: _percent(v) for name, v in matrix.survey().items()} if evaluated else {},
        "classes": class_records(classes, names, len(benchmark.task_names)) if evaluated and names else [],
        "chance": [guess.as_json() for guess in guesses(benchmark)],
    }
    return cast("Scored", found)


def declared_figures(metrics: Iterable[PluginMetric]) -> dict[str, Figure]:
    """The figures that some metrics declare, by name.

    :param metrics: any of Avalanche's; those that are no :class:`~avalanche_vlm.evaluation.base.VLMMetric` declare
        none.
    :raises InputError: if a name is taken.
    """
    taken = {figure.name: "every result" for figure in list_figures()}
    found: dict[str, Figure] = {}
    for metric in metrics:
        for figure in metric.figures if isinstance(metric, VLMMetric) else ():
            if figure.name in taken:
                raise InputError(f"{metric} declares a figure called {figure.name}, which {taken[figure.name]} has")
            taken[figure.name] = str(metric)
            found[figure.name] = figure
    return found


def with_figures(result: Result, metrics: Iterable[PluginMetric]) -> Result:
    """The result with the figures of further metrics: values under ``metrics``, declarations under ``figures``.

    :param result: left as it is.
    :param metrics: metrics that were in the evaluator.
    :return: the result itself if no figure is declared, else a copy with them.
    """
    figures = declared_figures(metrics)
    if not figures:
        return result
    values: dict[str, Any] = {}
    for metric in metrics:
        if isinstance(metric, VLMMetric) and metric.figures:
            measured = metric.values()
            values |= {figure.name: _measured(metric, figure, measured.get(figure.name)) for figure in metric.figures}
    declarations = {name: figure.as_json() for name, figure in figures.items()}
    return cast("Result", {**result, "metrics": {**result["metrics"], **values}, "figures": declarations})


def _told(plugin: SupervisedPlugin) -> str:
    """The class of a plugin with what it was set to.

    >>> from avalanche_vlm.training.plugins import AnchorPenaltyPlugin
    >>> _told(AnchorPenaltyPlugin(2.0))
    'AnchorPenaltyPlugin(weight=2.0)'
    """
    plain = (bool, int, float, str)
    changing = getattr(plugin, "states", {})  # what a plugin counts is not what it was set to
    own = {name: v for name, v in sorted(vars(plugin).items()) if not name.startswith("_") and name not in changing}
    said = ", ".join(f"{name}={value!r}" for name, value in own.items() if isinstance(value, plain))
    return f"{type(plugin).__name__}({said})" if said else type(plugin).__name__


def percent_rows(rows: np.ndarray | Sequence[Sequence[float]]) -> list[list[float | None]]:
    """A matrix of scores in [0, 1] as percent, None for a missing one.

    :param rows: scores ``[steps, tasks]``, NaN where one is missing.

    >>> percent_rows([[0.5, float("nan")]])
    [[50.0, None]]
    """
    return [[_percent(value) for value in row] for row in rows]


def _measured(metric: VLMMetric, figure: Figure, value: Any) -> Any:
    """The value of a figure as JSON has it; None where there is none, or something else than the figure's unit says."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        value = value.tolist()
    found = figure.checked(value)
    if found is None:
        # The experiment is over by now, and its result counts more than one figure of it.
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            given = f"{metric} gives {reprlib.repr(value)} as {figure.name}"
            warnings.warn(f"{given}, whose unit is {figure.unit}: it is left out", VLMWarning, stacklevel=3)
        return None
    return found if figure.unit in ("flag", "words") else round(float(found), 4)


def _percent(value: float) -> float | None:
    """Percent with four decimals; None (JSON's null) for a missing value."""
    return _plain(100 * value)


def _plain(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
