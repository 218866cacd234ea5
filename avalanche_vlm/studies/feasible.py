"""Which recipe can run on which stream: what would fail is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.compiling import blocks_to_compile
from avalanche_vlm.models.sparing import refuse_unsparing
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins.analytic import NoTrainingPlugin
from avalanche_vlm.training.plugins.base import VLMPlugin, classes_needed, refuse_options, too_few
from avalanche_vlm.training.recipes.lacking import lacks
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.shardable import refuse_unshardable


def trains(plugins: Sequence[SupervisedPlugin]) -> bool:
    """Whether a training takes steps: some methods solve, or leave the model as it is.

    :param plugins: the plugins of the training, the recipe's and others.
    """
    return not any(isinstance(plugin, NoTrainingPlugin) for plugin in plugins)


def refuse_undeclared(recipe: str, model: VLM, plugins: Sequence[SupervisedPlugin], settings: TrainSettings) -> None:
    """Refuse a recipe that lets other classes compete in training than the protocol says.

    :param recipe: name of the recipe.
    :param model: the model with the recipe built on it.
    :param plugins: the recipe's plugins and those beside it.
    :param settings: settled settings of the training; without classes, as for pairs, nothing is refused.
    :raises InputError: if the recipe, or a plugin of it, has chosen classes that its declaration does not name.
    """
    for chosen in (classes_needed(plugins), model.competing.in_training):
        if settings.train_classes is not None and chosen not in (None, settings.train_classes):
            raise InputError(
                f"recipe {recipe} lets other classes compete in training ({chosen}) than the result would say "
                f"({settings.train_classes}): declare them, @recipe(train_classes={chosen!r})"
            )


def refuse_untrainable(
    recipe: str, benchmark: VLMBenchmark, plugins: Sequence[SupervisedPlugin], settings: TrainSettings, first: int = 0
) -> None:
    """Refuse what would fail, or train nothing, in the middle of the stream.

    :param recipe: name of the recipe.
    :param benchmark: stream whose training sets are counted.
    :param plugins: the recipe's plugins.
    :param settings: settings of the training.
    :param first: number of the first experience that is trained; those before it were trained already.
    :raises InputError: for a task with fewer training samples than a plugin needs, naming the first one; and for pairs
        one by one, which no loss can contrast.
    """
    contrasts = benchmark.kind == "pairs" and trains(plugins)
    least = max((p.least_samples for p in plugins if isinstance(p, VLMPlugin)), default=1)
    least = max(least, 2) if contrasts else least
    for name, experience in list(zip(benchmark.task_names, benchmark.train_stream, strict=True))[first:]:
        if (there := len(experience.dataset)) < least:
            raise InputError(f"recipe {recipe}: {too_few(least, f'task {name}', there)}")
    if contrasts and settings.batch_size * settings.accumulate == 1:
        raise InputError(
            "a batch of one pair has nothing that its picture and caption are told from, so pairs are trained in "
            "batches of 2 or more (batch_size)"
        )


def refuse_unsuited(
    recipe: str,
    model: VLM,
    plugins: Sequence[SupervisedPlugin],
    settings: TrainSettings,
    sharded: Sequence[PluginMetric] | None = None,
) -> None:
    """Refuse settings that save time or memory where the recipe's method does not go with them.

    :param recipe: name of the recipe.
    :param model: the model with the recipe built on it.
    :param plugins: the recipe's plugins and those beside it.
    :param settings: settings of the training.
    :param sharded: metrics that look on while the towers are spread over processes; None where they are not.
    :raises InputError: naming recipe, setting and reason.
    """
    if sharded is not None:
        options = {"compile": settings.compile, "fp16": settings.amp == "fp16", "accumulate": settings.accumulate > 1}
        options["grad_checkpointing"] = settings.grad_checkpointing
        refuse_unshardable(f"recipe {recipe}", model, plugins, metrics=sharded, options=options)
    if trains(plugins):
        asked = {name: getattr(settings, name) for name in ("accumulate", "grad_checkpointing", "compile")}
        refuse_options(f"recipe {recipe}", model, plugins, {**asked, "fp16": settings.amp == "fp16"})
        refuse_unsparing(model, settings.accumulate, settings.grad_checkpointing)
        if settings.compile:
            blocks_to_compile(model)


def resources(recipe: str, benchmark: VLMBenchmark) -> dict[str, Any]:
    """What the recipe takes of what the benchmark brings.

    :param recipe: name of the recipe.
    :param benchmark: stream and resources.
    :return: resources by the names of the recipe's parameters.
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
