"""What an experiment starts from, by content: data, model, and the resources that a recipe makes use of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_vlm.benchmarks.fingerprint import data_of, label_space_of, reference_of, texts_of
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.memory.generators import generator_facts
from avalanche_vlm.models import VLM
from avalanche_vlm.models.fingerprint import reading_of, weights_of
from avalanche_vlm.training import recipes


def conditions_of(benchmark: VLMBenchmark, model: VLM) -> dict[str, Any]:
    """What every recipe on a stream starts from.

    :param benchmark: stream, label space and held-out sets.
    :param model: the model as it is before a recipe is built on it.
    :return: plain JSON types, a part of a result's protocol: ``benchmark``, ``data``, ``label_space`` with its prompts,
        ``model``, ``tokenizer`` and ``weights``.
    """
    space = benchmark.label_space
    classes = {"label_space": None} if space is None else {**space.describe(), "prompts": label_space_of(space)}
    return {
        "benchmark": benchmark.name,
        "data": data_of(benchmark),
        **classes,
        "model": model.name,
        "tokenizer": reading_of(model, texts_of(benchmark)),
        "weights": weights_of(model),
    }


def resources_in_use(benchmark: VLMBenchmark, recipe: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe makes use of besides the stream.

    :param benchmark: what brings the resources.
    :param recipe: name of the recipe.
    :param options: the recipe's options that were given.
    :return: plain JSON types by the resource's name: ``reference`` and ``generator``, as far as they are used.
    """
    given = [name for name in ("reference", "generator") if getattr(benchmark, name) is not None]
    found: dict[str, Any] = {}
    for name in recipes.get(recipe).uses(given, options):
        resource = getattr(benchmark, name)
        found[name] = reference_of(resource) if name == "reference" else generator_facts(resource)
    return found
