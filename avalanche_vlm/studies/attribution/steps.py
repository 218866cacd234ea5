"""What a model's weights were after every step of a stream."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.memory.state import part_of
from avalanche_vlm.models import VLM
from avalanche_vlm.storage import load_state, save_state
from avalanche_vlm.studies.attribution.interventions import Interventions, weights_around

_KIND = "weights of a step"
_ALL = 1 << 62


class StepWeights(AbstractContextManager["StepWeights"]):
    """Weights after every step, on disk.

    A step costs the bytes of the tensors that differ from the start and from the steps before, exactly as they are: all
    weights that trained, and none that are frozen. In memory there is one step at a time.

    :param model: the model that trains.
    :param start: state dict of ``model.clip`` from before; it is kept, not copied.
    :param folder: folder that they are kept in, where another process may go on with them; None for a temporary one (in
        the system's folder, which ``TMPDIR`` moves), for as long as the ``with`` block lasts.
    """

    def __init__(self, model: VLM, start: Mapping[str, torch.Tensor], folder: str | Path | None = None) -> None:
        self._model = model
        self._start = start
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self._folder = Path(folder if self._temporary is None else self._temporary.name)  # type: ignore[arg-type]
        self._met: dict[int, torch.Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def keep(self, step: int) -> None:
        """Keep the weights of now; those of the same step that were kept before are replaced.

        :param step: number of the step, by which :meth:`interventions` finds them.
        :raises InputError: if they cannot be written, naming the file.
        """
        model = self._model
        clip = model.clip.state_dict()
        moved = {name: value for name, value in clip.items() if not _same(value, self._start.get(name))}
        state: dict[str, Any] = {f"clip.{name}": value for name, value in moved.items()}
        state |= {f"around.{name}": value for name, value in weights_around(model).items()}
        self._met[step] = model.competing.met.clone()
        state |= {"unmoved": [name for name in clip if name not in moved], "met": self._met[step]}
        save_state(self._folder, state, name=_name(step), kind=_KIND, keep=_ALL)

    def interventions(self, step: int) -> Interventions:
        """The model as it is now, against a step that was kept.

        :param step: number of the step.
        :raises InputError: if it was not kept, or its file is damaged.
        """
        state = self._read(step)
        clip = {name: self._start[name] for name in state["unmoved"]} | part_of(state, "clip")
        return Interventions(self._model, clip, part_of(state, "around"))

    def met(self, step: int) -> torch.Tensor:
        """The classes that were met until a step, as :class:`~avalanche_vlm.models.competing.CompetingClasses` notes
        them.

        :param step: number of the step.
        :raises InputError: if it was not kept, or its file is damaged.
        """
        if step not in self._met:
            self._read(step)
        return self._met[step]

    def _read(self, step: int) -> dict[str, Any]:
        state = load_state(self._folder, kind=_KIND, name=_name(step)).state
        self._met[step] = state["met"].cpu()
        return state


def _name(step: int) -> str:
    return f"step-{step}"


def _same(value: torch.Tensor, before: torch.Tensor | None) -> bool:
    return before is not None and before.shape == value.shape and torch.equal(value, before.to(value.device))
