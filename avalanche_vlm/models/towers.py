"""The two towers of a model, and what of them trains."""

from __future__ import annotations

import reprlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.modules.site import rest_modules, train_modules, wake_modules, working_parameters

TOWERS = ("image", "text", "scale")

_EVALUATED: weakref.WeakKeyDictionary[nn.Module, tuple[int, bool]] = weakref.WeakKeyDictionary()
"""Of a model within :meth:`TwoTowers.evaluating`: how many blocks are open, and the mode before the first. Not the
model's own, so that a copy that is made within a block stands in none."""

_EVALUATING = threading.Lock()


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """Eval mode within a block, and afterwards the mode that each part had, be it one of its own.

    :param module: what rests, with all that is in it.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class TwoTowers(ResizesOnLoad):
    """An image tower and a text tower, of which each trains or is frozen, and the scale of their similarities.

    :param clip: any model with open_clip's ``visual`` and ``logit_scale``.
    """

    clip: Any
    """open_clip's model. Its classes have no base in common, and towers of other libraries inside."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self._frozen: set[str] = set()

    def tower(self, name: str) -> nn.Module:
        """The module of ``"image"`` or ``"text"``. Of a CLIP whose text tower has no module of its own, it is the
        transformer.

        :raises InputError: for another name.
        """
        if name not in ("image", "text"):
            raise InputError(f"a VLM has the towers image and text, not {name!r}")
        return self.clip.visual if name == "image" else getattr(self.clip, "text", None) or self.clip.transformer

    def tower_parameters(self, tower: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of ``"image"``, ``"text"`` or ``"scale"`` (logit scale and bias)."""
        if tower not in TOWERS:
            raise InputError(f"a VLM has the towers {', '.join(TOWERS)}, not {tower!r}")
        for name, parameter in self.clip.named_parameters():
            owner = "image" if name.startswith("visual.") else "scale" if name.startswith("logit_") else "text"
            if owner == tower:
                yield name, parameter

    def working_parameters(self, tower: str) -> Iterator[nn.Parameter]:
        """Those of ``"image"`` or ``"text"`` that take part in a forward pass now: no inactive modules."""
        self.tower(tower)
        if tower == "image":
            yield from working_parameters(self.clip.visual)
            return
        yield from (p for name, p in self.clip.named_parameters(recurse=False) if not name.startswith("logit_"))
        for name, child in self.clip.named_children():
            if name != "visual":
                yield from working_parameters(child)

    @property
    def text_trains(self) -> bool:
        """Whether something trains of what takes part in a pass of the text tower now, modules included."""
        return any(p.requires_grad for p in self.working_parameters("text"))

    def freeze(self, *towers: str) -> Self:
        """Stop training these towers: no gradients, and eval mode that survives ``train()``."""
        for tower in towers:
            for _, parameter in self.tower_parameters(tower):
                parameter.requires_grad_(False)
            self._frozen.add(tower)
        return self.train(self.training)

    def unfreeze(self, *towers: str) -> Self:
        """Train these towers again, all modules in them included."""
        wake_modules(self.clip)
        for tower in towers:
            for _, parameter in self.tower_parameters(tower):
                parameter.requires_grad_(True)
            self._frozen.discard(tower)
        return self.train(self.training)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen towers."""
        return tuple(t for t in TOWERS if t in self._frozen)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the frozen towers, which stay in eval mode."""
        super().train(mode)
        for name, module in self.clip.named_children():
            if ("image" if name == "visual" else "text") in self._frozen:
                module.eval()
        train_modules(self.clip, mode)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Eval mode without gradients within a block, and the mode as it was afterwards. Where several threads ask the
        model at once, it is in eval mode until the last one has its answer."""
        with _EVALUATING:
            opened, mode = _EVALUATED.get(self, (0, self.training))
            _EVALUATED[self] = opened + 1, mode
            self.eval()
        try:
            with torch.no_grad():
                yield self
        finally:
            with _EVALUATING:
                opened, mode = _EVALUATED.pop(self)
                if opened > 1:
                    _EVALUATED[self] = opened - 1, mode
                else:
                    self.train(mode)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters that an optimizer should hold."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_state(self) -> dict[str, list[str]]:
        """What trains, which a state dict does not say.

        :return: ``trains``, the names of all parameters that train, and ``frozen``, the towers that stay in eval mode;
            values that JSON has.
        """
        return {"trains": [name for name, p in named_weights(self) if p.requires_grad], "frozen": list(self.frozen)}

    def load_training_state(self, state: Mapping[str, Sequence[str]]) -> Self:
        """Train what another model trained. Load its state dict first, which brings the parameters.

        :param state: what :meth:`training_state` of a model made in the same way gave.
        :raises InputError: if it names a parameter that this model does not have; nothing has changed then.
        """
        if not isinstance(state, Mapping) or not all(isinstance(state.get(k), list) for k in ("trains", "frozen")):
            raise InputError(f"what trains is two lists, trains and frozen, not {reprlib.repr(state)}")
        if unknown := set(state["frozen"]) - set(TOWERS):
            raise InputError(f"a VLM has the towers {', '.join(TOWERS)}, not {min(unknown)!r}")
        trains = set(state["trains"])
        if unknown := trains - {name for name, _ in named_weights(self)}:
            raise InputError(f"the model has no parameter {min(unknown)}, which is to train")
        wake_modules(self.clip)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trains)
        rest_modules(self.clip)
        self._frozen = set(state["frozen"])
        return self.train(self.training)
