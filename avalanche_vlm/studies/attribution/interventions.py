"""Weights put back into a model for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.blocks import blocks, group_by_block, tower_of
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.weights.average import interpolate, load, snapshot


class Interventions:
    """A trained model and the weights that it started from.

    What is put back are the weights (and buffers) of ``model.clip``. Modules that a method has hung into a block, which
    the start did not know, are switched off where the block is put back; a router or an image or text path only where
    everything is. Whatever happens within, the weights are afterwards bit for bit what they were.

    :param model: changed only within the ``with`` blocks of :meth:`put_back` and :meth:`way_back`.
    :param start: a state dict of ``model.clip`` from before the training.
    :raises InputError: if it has none of a block's weights, or such of another shape.
    """

    def __init__(self, model: VLM, start: Mapping[str, torch.Tensor]) -> None:
        self.model = model
        state = model.clip.state_dict()
        for name in state.keys() & start.keys():
            if state[name].shape != start[name].shape:
                raise InputError(
                    f"the pretrained weights of {name} have shape {list(start[name].shape)}, "
                    f"the model's {list(state[name].shape)}: give the weights that the training started from"
                )
        if not state.keys() & start.keys():
            raise InputError("the pretrained weights have no name in common with model.clip's")
        self._start = {name: start[name].to(state[name].device) for name in state if name in start}
        self.blocks = blocks(model, buffers=True)
        """Names of weights and buffers by block."""
        sites = {name: module for name, module in model.clip.named_modules() if isinstance(module, Site)}
        self._sites = {
            block: [sites[name.removesuffix(".-")] for name in names]
            for block, names in group_by_block(f"{name}.-" for name in sites).items()
        }

        self.changed = [block for block in self.blocks if self._has_changed(block)]
        """The blocks that differ from the start: only they can have an effect."""
        paths = {"image": model.routed is not None or model.image_path is not None, "text": model.text_path is not None}
        self.changed_towers = {tower_of(block) for block in self.changed} | {t for t, path in paths.items() if path}

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

        At 1 the model is the one at the start, modules, router, image path and text path switched off.
        """
        if share == 1:
            outer = ("routed", "image_path", "text_path")
            kept = {name: getattr(self.model, name) for name in outer}
            try:
                for name in outer:
                    setattr(self.model, name, None)
                with self.put_back(self.blocks) as model, self._loaded(self._start):
                    yield model
            finally:
                for name, value in kept.items():
                    setattr(self.model, name, value)
            return
        state = self.model.clip.state_dict()
        floating = {name: value for name, value in self._start.items() if value.is_floating_point()}
        with self._loaded(interpolate({name: state[name] for name in floating}, floating, share)) as model:
            yield model

    def _has_changed(self, block: str) -> bool:
        state = self.model.clip.state_dict()
        weights = [name for name in self.blocks[block] if name in self._start]
        return bool(self._sites.get(block)) or any(not torch.equal(state[name], self._start[name]) for name in weights)

    @contextmanager
    def _loaded(self, weights: Mapping[str, torch.Tensor]) -> Iterator[VLM]:
        state = self.model.clip.state_dict()
        kept = snapshot({name: state[name] for name in weights})
        try:
            load(state, weights)
            yield self.model
        finally:
            load(state, kept)

    @contextmanager
    def _switched_off(self, chosen: Iterable[str]) -> Iterator[None]:
        sites = [site for block in chosen for site in self._sites.get(block, ())]
        active = [site.active for site in sites]
        try:
            for site in sites:
                site.active = None
            yield
        finally:
            for site, name in zip(sites, active, strict=True):
                site.active = name
