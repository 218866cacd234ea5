"""A new version's files, and the settings that an old one was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from avalanche_vlm._versions import package_versions
from avalanche_vlm.artifacts import SavedModel, save_model
from avalanche_vlm.artifacts.layout import VERSIONS
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.documents import fault_of
from avalanche_vlm.studies.living.learning import Learner
from avalanche_vlm.studies.living.records import RECORD, Record
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings


def former_settings(saved: SavedModel) -> TrainSettings:
    """The settings that a saved model was trained with.

    :param saved: a version of a model.
    :raises InputError: if it was saved without them.
    """
    protocol = saved.description.protocol or {}
    train = protocol.get("train")
    if not isinstance(train, dict):
        raise InputError(f"{saved.folder} does not say how it was trained: give the settings of the training")
    try:
        told = TrainSettings(**train)  # type: ignore[arg-type]
        return TypeAdapter(TrainSettings).validate_json(json.dumps(asdict(told)), strict=True)
    except (TypeError, ValueError) as error:
        why = fault_of(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{saved.folder} was trained with settings of another version: {why}") from error


def _of_the_run(saved: SavedModel) -> dict[str, Any]:
    """What the run is known by that has trained the first version."""
    about = saved.description.about
    return {"run": about["run"]} if "run" in about else {}


def save_version(
    folder: Path,
    version: str,
    parent: str,
    saved: SavedModel,
    learner: Learner,
    stream: VLMBenchmark,
    settings: TrainSettings,
    new: VLMBenchmark,
    record: Record,
) -> Path:
    """Write a version whole, which is not the model yet.

    :param folder: the folder that the model is saved to.
    :param version: name of the version.
    :param parent: name of the version that it goes on from.
    :param saved: the version that it goes on from, out of its folder.
    :param learner: the model with its recipe.
    :param stream: the whole stream.
    :param settings: settings of its training.
    :param new: the benchmark with what is new, as it was given.
    :param record: what is known of the version, which is in place together with it.
    :return: the version's folder.
    :raises InputError: if it cannot be written; nothing has changed then.
    """
    recipe = learner.recipe
    (folder / VERSIONS / f"{version}.json").unlink(missing_ok=True)  # of one of that name that was removed by hand
    protocol = {
        **(saved.description.protocol or {}),
        "recipe": recipe.recipe,
        "recipe_options": recipes.all_options(recipe.recipe, recipe.options),
        "train": asdict(settings),
        "benchmark": new.name,
        "versions": package_versions(),
        "goes_on_from": parent,
    }
    return save_model(
        folder,
        learner.model,
        recipe=recipe.recipe,
        options=recipe.options,
        resources=recipe.resources,
        frozen=recipe.frozen,
        earlier=learner.earlier,
        plugins=learner.plugins,
        result={"protocol": protocol, "tasks": list(stream.task_names)},
        embed_base=saved.description.base.embedded,
        version=version,
        current=False,
        about={**_of_the_run(saved), RECORD: record.model_dump(mode="json")},
    )
