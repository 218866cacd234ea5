"""What a model's weights were after every step of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.interventions import Interventions, weights_around


class StepWeights(AbstractContextManager["StepWeights"]):
    """Weights after every step, in a temporary folder for as long as the ``with`` block lasts.

    A step costs the bytes of the tensors that differ from the start, exactly as they are, on disk (in the system's
    temporary folder, which ``TMPDIR`` moves): all weights that trained, and none that are frozen. In memory there is
    one step at a time.

    :param model: the model that trains.
    :param start: state dict of ``model.clip`` from before; it is kept, not copied.
    """

    def __init__(self, model: VLM, start: Mapping[str, torch.Tensor]) -> None:
        self._model = model
        self._start = start
        self._folder = TemporaryDirectory()
        self._names: dict[int, list[str]] = {}
        self._met: dict[int, torch.Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._folder.cleanup()

    def keep(self, step: int) -> None:
        """Keep the weights of now.

        :param step: number of the step, by which :meth:`interventions` finds them.
        """
        model = self._model
        clip = model.clip.state_dict()
        moved = {name: value for name, value in clip.items() if not _same(value, self._start.get(name))}
        parts = {"clip": moved, "around": weights_around(model)}
        torch.save({part: {n: v.cpu() for n, v in of.items()} for part, of in parts.items()}, self._file(step))
        self._names[step] = [name for name in clip if name not in moved]
        self._met[step] = model.competing.met.clone()

    def interventions(self, step: int) -> Interventions:
        """The model as it is now, against a step that was kept.

        :param step: number of the step.
        """
        kept = torch.load(self._file(step), weights_only=True)
        clip = {name: self._start[name] for name in self._names[step]} | kept["clip"]
        return Interventions(self._model, clip, kept["around"])

    def met(self, step: int) -> torch.Tensor:
        """The classes that were met until a step, as :class:`~avalanche_vlm.models.competing.CompetingClasses` notes
        them.

        :param step: number of the step.
        """
        return self._met[step]

    def _file(self, step: int) -> Path:
        return Path(self._folder.name) / f"{step}.pt"


def _same(value: torch.Tensor, before: torch.Tensor | None) -> bool:
    return before is not None and before.shape == value.shape and torch.equal(value, before.to(value.device))
