"""A saved model out of its folder. Nothing that is read is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from avalanche_vlm.artifacts.bases import base_of
from avalanche_vlm.artifacts.description import Description, checked_file, read_description
from avalanche_vlm.artifacts.layout import DESCRIPTION, version_folder
from avalanche_vlm.artifacts.open_clip_folder import WEIGHTS
from avalanche_vlm.artifacts.rebuilding import build_again
from avalanche_vlm.artifacts.saving import TENSORS
from avalanche_vlm.artifacts.tensors import laid_out, tensors_of
from avalanche_vlm.artifacts.training_files import TRAINING, read_training
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import StateDict
from avalanche_vlm.models import VLM
from avalanche_vlm.models.fitness import not_finite
from avalanche_vlm.storage import read_tensors


def load(folder: str | Path, *, device: str | torch.device = "cpu", base: VLM | None = None) -> VLM:
    """A saved model, in eval mode: on the same machine it predicts what it predicted when it was saved, bit for bit.

    :param folder: the folder that was saved to (of ``run``, for example), its ``model``, or one of its versions.
    :param device: where the model lives.
    :param base: its base, for a model that was built by the user's own hands; it becomes the model.
    :raises InputError: in one sentence, if a file is missing, truncated, changed or of another format, a recipe is not
        installed, or the base cannot be had or is another one.
    """
    return open_saved(folder).model(device=device, base=base)


def open_saved(folder: str | Path) -> SavedModel:
    """What a folder holds, of which nothing but ``model.json`` is read yet.

    :param folder: the folder that was saved to, its ``model``, or one of its versions.
    :raises InputError: in one sentence, if no model is there, or ``model.json`` is damaged or of another format.
    """
    where = version_folder(folder)
    return SavedModel(where, read_description(where))


@dataclass(frozen=True)
class SavedModel:
    """A version of a saved model.

    :param folder: the folder with its files.
    :param description: what its ``model.json`` says.
    """

    folder: Path
    description: Description

    @property
    def label_space(self) -> LabelSpace | None:
        """The classes that it tells apart; None for a model of image-text pairs."""
        space = self.description.label_space
        return None if space is None else LabelSpace.from_json(space, f"the label space in {self.folder / DESCRIPTION}")

    def base(self, given: VLM | None = None) -> VLM:
        """The model as it was before any recipe was built on it.

        :param given: the base itself, for a model that was built by the user's own hands.
        :raises InputError: in one sentence, if it cannot be had or is another one than it was.
        """
        space = self.label_space
        return base_of(self.folder, self.description, given, [] if space is None else list(space.class_names))

    def state(self, base: VLM) -> StateDict:
        """The entries of the model's state.

        :param base: what :meth:`base` gave, before a recipe is built on it.
        :return: names to tensors on the CPU, of which those of the base are the base's own, and JSON values.
        :raises InputError: in one sentence, if a file is missing, truncated or changed.
        """
        found = self.description
        stored = self._read(TENSORS, "")
        if found.plain:
            stored |= self._read(WEIGHTS, "clip.")
        shared = {name: t for name, t in tensors_of(base.state_dict()).items() if name not in found.absent}
        return cast("StateDict", {**shared, **stored, **found.state})

    def model(self, device: str | torch.device = "cpu", base: VLM | None = None) -> VLM:
        """The model, in eval mode.

        :param device: where the model lives.
        :param base: its base, for a model that was built by the user's own hands; it becomes the model.
        :raises InputError: in one sentence, if it cannot be had.
        """
        model = self.base(base)
        state = self.state(model)
        self.build(model)
        self.fill(model, state)
        model.saved_in = self.folder
        return model.to(device).eval()

    def build(self, model: VLM) -> None:
        """Give a base the parts that the recipes put into it, without what trains them.

        :param model: what :meth:`base` gave, changed in place.
        :raises InputError: for a recipe that is not there, or an option that it does not take or that names a path.
        """
        build_again(model, self.description.built, self.folder / DESCRIPTION, self.label_space)

    def fill(self, model: VLM, state: Mapping[str, Any]) -> None:
        """Give a model that has all parts what they hold.

        :param model: a base that :meth:`build` has been called for.
        :param state: what :meth:`state` gave.
        :raises InputError: if the state does not fit.
        """
        try:
            model.load_state_dict(dict(state))
            model.load_training_state(self.description.trains)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            said = str(error) if isinstance(error, (RuntimeError, InputError)) else f"{type(error).__name__}: {error}"
            raise InputError(f"what {self.folder} holds does not fit its model: {' '.join(said.split())}") from error
        if broken := not_finite(dict(model.named_parameters())):
            raise InputError(f"{self.folder} is damaged: {broken[0]} has numbers that are NaN or infinite")

    def training(self, base: VLM) -> StateDict:
        """All that a training goes on from, the model's state included.

        :param base: what :meth:`base` gave, before a recipe is built on it.
        :return: a state for :func:`~avalanche_vlm.training.state.load_training_state`, with a model on which the recipe
            was built and with its plugins.
        :raises InputError: if the model was saved without it, or a file is missing, truncated or changed.
        """
        if f"{TRAINING}.json" in self.description.files:
            checked_file(self.folder, f"{TRAINING}.json", self.description.files)
        return read_training(self.folder, self.state(base), base.state_dict())

    def _read(self, name: str, prefix: str) -> dict[str, torch.Tensor]:
        path = checked_file(self.folder, name, self.description.files)
        strides = self.description.strides
        return {f"{prefix}{key}": laid_out(f"{prefix}{key}", t, strides) for key, t in read_tensors(path).items()}
