"""A cut through the image tower: take activations out below it, put stored ones in above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from avalanche_vlm._host import to_device
from avalanche_vlm._rows import append
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.blocks import stopped_before
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.units import did_you_mean

_BLOCKS = re.compile(r"(transformer\.resblocks|trunk\.blocks)\.\d+")


def default_cut(model: VLM) -> str:
    """The name of the image tower's middle residual block.

    :raises InputError: if the tower is not a stack of residual blocks, as with ResNets.
    """
    blocks = [name for name, _ in model.clip.visual.named_modules() if _BLOCKS.fullmatch(name)]
    if not blocks:
        raise InputError(
            f"{model.name}'s image tower has no residual blocks to cut between: name a layer, "
            f"such as {', '.join(_some_layers(model.clip.visual))}"
        )
    return blocks[len(blocks) // 2]


class TowerCut:
    """The image tower in two parts: what comes before a submodule, and the rest.

    Below the cut is all that the submodule's input depends on. The cut has to go through the whole tower (a block's
    inner layers are no cut, the residual path goes around them): that is tried out here, on small batches.

    :param model: its plain image tower is cut; nothing is changed by that.
    :param layer: the submodule's name within ``model.clip.visual``, such as ``"transformer.resblocks.6"`` or, for a
        ResNet, ``"layer3"``.
    :raises InputError: if there is no such layer, if it is no cut, or if the tower checkpoints its activations (the
        backward pass then runs the blocks again, without what was appended).
    """

    def __init__(self, model: VLM, layer: str) -> None:
        visual = model.clip.visual
        modules = dict(visual.named_modules())
        if not layer or layer not in modules:
            raise InputError(
                f"{model.name}'s image tower has no layer {layer!r}{did_you_mean(layer, modules)}; it has "
                f"{', '.join(_some_layers(visual))}, ..."
            )
        if any(getattr(module, "grad_checkpointing", False) for module in modules.values()):
            raise InputError(f"{model.name}'s image tower checkpoints its activations: switch that off to cut it")
        self.layer = layer
        self._model = model
        self._module = modules[layer]
        self._below: list[nn.Module] = []
        self._handle: Any = None
        self._batch_dim = self._find_batch()
        self._try_out()

    def capture(self, images: torch.Tensor) -> torch.Tensor:
        """The activations at the cut, in eval mode and without gradient. The tower does not run past the cut.

        :param images: ``[B, 3, H, W]``.
        :return: ``[B, ...]``, the batch first whatever the tower's order, in the activations' own type.
        """
        with self._model.evaluating():
            # A copy: the input of the first layer is the images themselves.
            return self._run_to_cut(images).movedim(self._batch_dim, 0).clone(memory_format=torch.contiguous_format)

    def arm(self, latents: torch.Tensor) -> None:
        """Append latents to the activations of the tower's next pass, and only that one.

        That pass gives features ``[B + n, D]``: those of the images, then those of the latents. The lower part runs
        on the images only.

        :param latents: ``[n, ...]`` as :meth:`capture` gives them; device and type become the activations'.
        """
        self.disarm()

        def enter(module: nn.Module, args: tuple) -> tuple:
            self.disarm()
            x, *others = args
            stored = to_device(append(latents).to(x.dtype), x.device).movedim(0, self._batch_dim)
            return torch.cat([x, stored], self._batch_dim), *others

        self._handle = self._module.register_forward_pre_hook(enter)

    def disarm(self) -> None:
        """Forget what :meth:`arm` was given, if no pass came."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @property
    def armed(self) -> bool:
        """Whether latents wait for a pass of the tower."""
        return self._handle is not None

    @contextmanager
    def appending(self, latents: torch.Tensor) -> Iterator[None]:
        """:meth:`arm` for a block."""
        self.arm(latents)
        try:
            yield
        finally:
            self.disarm()

    def is_in(self, model: nn.Module) -> bool:
        """Whether it is this model's tower that is cut, not a copy's."""
        return any(module is self._module for module in model.modules())

    def freeze_below(self) -> list[str]:
        """Stop training all that is below the cut; what was frozen above stays so.

        :return: the names of the parameters below, within the image tower.
        """
        visual = self._model.clip.visual
        parameters = dict(visual.named_parameters())
        before = {name: p.requires_grad for name, p in parameters.items()}
        finished: list[nn.Module] = []
        handles = [m.register_forward_hook(lambda m, *_: finished.append(m)) for m in visual.modules()]
        try:
            with self._model.evaluating(), torch.enable_grad():
                visual.requires_grad_(True)
                total = self._run_to_cut(self._images(1)).float().sum()
                gradients = (
                    torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
                    if total.requires_grad
                    else [None] * len(parameters)
                )
        finally:
            for handle in handles:
                handle.remove()
            for name, parameter in parameters.items():
                parameter.requires_grad_(before[name])
        below = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
        for name in below:
            parameters[name].requires_grad_(False)
        self._below = finished
        self.settle()
        return below

    def settle(self) -> None:
        """Put the frozen lower part in eval mode, where batch norm's statistics stand still and nothing is dropped.

        ``model.train()`` undoes it, so it has to be repeated before every training pass.
        """
        for module in self._below:
            module.eval()

    def _run_to_cut(self, images: torch.Tensor) -> torch.Tensor:
        """The first argument of the submodule, as it is."""
        reached = stopped_before(self._module, partial(self._model.encode_image_plain, normalize=False), images)
        if isinstance(reached, torch.Tensor):
            return reached
        raise self._no_cut("it is not called with a tensor")

    def _find_batch(self) -> int:
        """The dimension of the batch in the activations at the cut: the one that grows with it."""
        with self._model.evaluating():
            two, three = (self._run_to_cut(self._images(n)).shape for n in (2, 3))
        changed = [(d, sizes) for d, sizes in enumerate(zip(two, three, strict=True)) if sizes[0] != sizes[1]]
        if len(changed) != 1 or changed[0][1] != (2, 3):
            raise self._no_cut("no dimension of its input is the batch")
        return changed[0][0]

    def _try_out(self) -> None:
        """Append once, and see whether all images come out."""
        latents = self.capture(self._images(3))
        try:
            with self._model.evaluating(), self.appending(latents):
                features = self._model.encode_image_plain(self._images(2), normalize=False)
        except RuntimeError as error:
            raise self._no_cut("a path goes around it") from error
        if len(features) != 5:
            raise self._no_cut("a path goes around it")

    def _images(self, n: int) -> torch.Tensor:
        size = self._model.transforms.eval.size
        return torch.zeros(n, 3, size, size, device=self._model.device)

    def _no_cut(self, reason: str) -> InputError:
        return InputError(f"{self._model.name}'s image tower cannot be cut before {self.layer!r}: {reason}")


def _some_layers(visual: nn.Module, limit: int = 6) -> list[str]:
    """Names of layers, coarse ones first."""
    blocks = [name for name, _ in visual.named_modules() if _BLOCKS.fullmatch(name)]
    return (blocks or [name for name, _ in visual.named_children()])[-limit:]
