"""An experiment: what a command makes of its request for one recipe and one seed.

It is everything that decides a result and is known before it is there. It is stored as ``request.json`` beside the
result, and read back from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from avalanche_vlm._content import digest
from avalanche_vlm._flat import flat
from avalanche_vlm.commands.requests.parts import ModelRequest, Part, StreamRequest, TorchSeed
from avalanche_vlm.evaluation.comparable import PLACES
from avalanche_vlm.evaluation.results import RunId
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.training.settings import TrainSettings

LATER: Mapping[str, Any] = {
    "train.accumulate": 1,
    "train.grad_checkpointing": False,
    "train.tf32": False,
    "train.compile": False,
}
"""Settings that requests of earlier versions do not have, with the values that are meant there: what a run is known by
does not have those either, so that it stays what it was."""


class Experiment(Part):
    """One experiment: everything that decides its result and is known before it is there.

    Defaults, versions and the device that ``auto`` stands for are part of it: they can change between two starts.

    :param recipe: name of the recipe.
    :param recipe_options: all options of the recipe.
    :param seed: seed of the training, and of the data unless the stream has one of its own.
    :param stream: the stream of tasks.
    :param model: the model that is trained.
    :param device: ``cpu``, ``cuda`` or ``cuda:N``.
    :param train: all training settings.
    :param versions: versions of what decides the numbers.
    """

    recipe: str
    recipe_options: dict[str, Any]
    seed: TorchSeed
    stream: StreamRequest
    model: ModelRequest
    device: str
    train: TrainSettings
    versions: dict[str, str]

    def __str__(self) -> str:
        return f"{self.recipe}, seed {self.seed}"

    @property
    def data_seed(self) -> int:
        """The seed of what the stream draws: its own, or the training's."""
        return self.seed if self.stream.seed is None else self.stream.seed

    @property
    def run_id(self) -> str:
        """What its run is known by in all its files: a digest of everything that was asked for, the same whenever the
        same is asked for, wherever data lie."""
        return run_id_of(self.stored())

    def stored(self) -> dict[str, Any]:
        """The experiment as ``request.json`` holds it, in JSON types."""
        return self.model_dump(mode="json")


def run_id_of(stored: Mapping[str, Any]) -> str:
    """What a run is known by: of a place that decides nothing
    (:data:`~avalanche_vlm.evaluation.comparable.PLACES`) no more than whether there is one.

    :param stored: the experiment as ``request.json`` holds it, in JSON types.
    """
    asked = {key: value for key, value in flat(stored).items() if key not in LATER or value != LATER[key]}
    places = {key: "somewhere" for key in PLACES.values() if asked.get(key) is not None}
    return digest([json.dumps({**asked, **places}, sort_keys=True)])


class KeptExperiment(Experiment):
    """What ``request.json`` holds: an experiment, and what its run is known by.

    :param run: what the run is known by.
    """

    run: RunId

    def experiment(self) -> Experiment:
        """The experiment that was asked for."""
        return Experiment(**{name: getattr(self, name) for name in Experiment.model_fields})


REQUEST: Document[KeptExperiment] = Document("the request of a run", KeptExperiment, later=LATER)
