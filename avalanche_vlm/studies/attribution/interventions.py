"""Weights put back into a model for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.blocks import blocks, group_by_block, tower_of
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.weights.average import copy_into, interpolate, snapshot

_AROUND = {"image_path": "image.path", "text_path": "text.path", "class_head": "head", "routed": "router"}
"""Slots of a model, and the blocks that what is in them makes up."""


def weights_around(model: VLM) -> dict[str, torch.Tensor]:
    """Weights and buffers that take part in predictions and are no part of ``model.clip``, by their names in the
    model's state dict.

    :param model: model whose image path, text path, class head and router are looked at.
    """
    state = {n: v for n, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    inside = {value.data_ptr() for name, value in state.items() if name.startswith("clip.")}
    return {n: v for n, v in state.items() if n.partition(".")[0] in _AROUND and v.data_ptr() not in inside}


class Interventions:
    """A trained model and the weights that it started from.

    What is put back are the weights (and buffers) of ``model.clip`` and, where the start had them, of what stands
    around it: prompts on an image or text path, a class head, a router. Modules that a method has hung into a block,
    which the start did not know, are switched off where the block is put back; a router or an image or text path that
    it did not know only where everything is. Whatever happens within, the weights are afterwards bit for bit what they
    were.

    :param model: changed only within the ``with`` blocks of :meth:`put_back` and :meth:`way_back`.
    :param start: a state dict of ``model.clip`` from before the training.
    :param around: state of the rest of the model at the start, by the names of ``model.state_dict()``; what has another
        shape by now stays as it is. None for a start at which there was nothing around the towers.
    :raises InputError: if ``start`` has none of a block's weights, or such of another shape.
    """

    def __init__(
        self, model: VLM, start: Mapping[str, torch.Tensor], around: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.model = model
        self._new = () if around is not None else ("routed", "image_path", "text_path")
        """Slots of what was not there at the start."""
        state = model.clip.state_dict()
        odd = [name for name in state.keys() & start.keys() if state[name].shape != start[name].shape]
        if odd and around is None:
            name = odd[0]
            raise InputError(
                f"the pretrained weights of {name} have shape {list(start[name].shape)}, "
                f"the model's {list(state[name].shape)}: give the weights that the training started from"
            )
        if not state.keys() & start.keys():
            raise InputError("the pretrained weights have no name in common with model.clip's")
        outside = weights_around(model)
        known = {**start, **{name: value for name, value in (around or {}).items() if name in outside}}
        self._state = state | outside
        """The model's weights, whatever they are now."""
        self._start = {
            name: known[name].to(value.device)
            for name, value in self._state.items()
            if name in known and known[name].shape == value.shape
        }
        self.blocks = blocks(model, buffers=True)
        """Names of weights and buffers by block."""
        for name in outside if around is not None else ():
            self.blocks.setdefault(_AROUND[name.partition(".")[0]], []).append(name)
        sites = {name: module for name, module in model.clip.named_modules() if isinstance(module, Site)}
        self._sites = {
            block: [(name.removesuffix(".-"), sites[name.removesuffix(".-")]) for name in names]
            for block, names in group_by_block(f"{name}.-" for name in sites).items()
        }

        self.changed = [block for block in self.blocks if self._has_changed(block)]
        """The blocks that differ from the start: only they can have an effect."""
        self.changed_towers = {tower_of(block) for block in self.changed}
        if "image_path" in self._new and (model.routed is not None or model.image_path is not None):
            self.changed_towers.add("image")
        if "text_path" in self._new and model.text_path is not None:
            self.changed_towers.add("text")

    @contextmanager
    def put_back(self, chosen: Iterable[str]) -> Iterator[VLM]:
        """Within it, these blocks are as they were at the start."""
        chosen = list(chosen)
        names = [name for block in chosen for name in self.blocks[block] if name in self._start]
        with self._switched_off(chosen), self._loaded({name: self._start[name] for name in names}) as model:
            yield model

    @contextmanager
    def way_back(self, share: float = 1.0) -> Iterator[VLM]:
        """Within it, all weights lie between the trained ones (0) and those of the start (1).

        At 1 the model is the one at the start; modules, router, image path and text path that it did not know are
        switched off.

        :param share: share of the way, in (0, 1].
        """
        if share == 1:
            kept = {name: getattr(self.model, name) for name in self._new}
            try:
                for name in self._new:
                    setattr(self.model, name, None)
                with self.put_back(self.blocks) as model, self._loaded(self._start):
                    yield model
            finally:
                for name, value in kept.items():
                    setattr(self.model, name, value)
            return
        floating = {name: value for name, value in self._start.items() if value.is_floating_point()}
        with self._loaded(interpolate({name: self._state[name] for name in floating}, floating, share)) as model:
            yield model

    def _has_changed(self, block: str) -> bool:
        weights = [name for name in self.blocks[block] if name in self._start]
        return any(not self._knows(name, None) for name, _ in self._sites.get(block, ())) or any(
            not torch.equal(self._state[name], self._start[name]) for name in weights
        )

    def _knows(self, site: str, module: str | None) -> bool:
        """Whether the start has weights of a site's module; None asks for any module."""
        bank = f"{site}.bank." if module is None else f"{site}.bank.{module}."
        return any(name.startswith(bank) for name in self._start)

    @contextmanager
    def _loaded(self, weights: Mapping[str, torch.Tensor]) -> Iterator[VLM]:
        kept = snapshot({name: self._state[name] for name in weights})
        try:
            copy_into(self._state, weights)
            yield self.model
        finally:
            copy_into(self._state, kept)

    @contextmanager
    def _switched_off(self, chosen: Iterable[str]) -> Iterator[None]:
        sites = [
            site
            for block in chosen
            for name, site in self._sites.get(block, ())
            if site.active is not None and not self._knows(name, site.active)
        ]
        active = [site.active for site in sites]
        try:
            for site in sites:
                site.active = None
            yield
        finally:
            for site, name in zip(sites, active, strict=True):
                site.active = name
