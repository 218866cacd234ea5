"""Updates that stay out of the way of what the layers have read before."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.training.data import experience_batches, images_of
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.plugins.layer_inputs import reading_inputs
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.weights.subspaces import accumulate_covariance, null_space, project

DEFAULT_PATTERN = r"(resblocks|blocks)\.\d+\.mlp\.(c_fc|c_proj|fc1|fc2)$"
"""Both linear layers of every block's MLP, in open_clip's image towers and in timm's."""


class NullSpaceProjectionPlugin(VLMPlugin, supports_distributed=True):
    """Project every update of chosen linear layers onto the null space of the inputs they had in past experiences.

    GNSP's projection (arXiv 2507.19839): after each experience the uncentred covariance of each layer's inputs over its
    data is added to what was accumulated; from the second experience on a layer's weight moves only in the directions
    that hold the last ``tail_energy`` of it. With a tail energy of 0 the layer's outputs for past inputs stay what they
    were.

    It costs a pass over every experience, an eigen-decomposition ``[in, in]`` per layer and experience, a copy of the
    layers' weights and two thin matrix products per layer at every step.

    Deliberate differences from the authors' code:

    - It projects gradients, whose steps AdamW then rescales element by element and adds weight decay to: neither stays
      in the null space. Here the *step itself* is projected, weights after minus weights before, for any optimizer.
    - It normalises the covariance of every batch, which makes the result depend on the batches. Here only that of every
      experience is, to a Frobenius norm of one as there, so that a long experience counts no more than a short one.
    - It reads the inputs under the training transforms, so that what is protected depends on how pictures were
      augmented. Here they are read under the evaluation transforms.
    - It projects the image tower's output matrix too, which is no layer in open_clip: here it is not, so hold it with
      ``freeze_rest``, with which nothing but the layers trains from the second experience on, as the authors do.

    What else trains (attention, norms, embeddings) changes the features of old pictures, and thereby the inputs of
    these layers, with nothing to hold it. A plugin that reads weights in ``after_update`` has to stand after this one;
    one that changes them at an experience's end, before it.

    :param model: the model that will be trained.
    :param pattern: regular expression searched in the names of the image tower's modules; has to match linear layers.
        Attention is refused: its fused projections are not called as layers.
    :param tail_energy: share of the inputs' energy that updates may touch, in [0, 1].
    :param hold_biases: keep the biases of these layers from moving once there is something to protect: their input is
        the constant 1, which every past sample had.
    :param freeze_rest: stop training every other parameter of the model once there is something to protect, that is
        from the second experience on.
    :param dtype: data type of the covariances, ``[in, in]`` per layer. float64 makes small tail energies exact, for
        twice the bytes.
    :raises InputError: if nothing matches, a match is no linear layer, or the tail energy is out of its range; as an
        experience starts, if the layers are frozen.
    """

    states: ClassVar = {"covariances": KEPT, "_bases": WORKING, "_before": TRANSIENT}

    def __init__(
        self,
        model: VLM,
        *,
        pattern: str = DEFAULT_PATTERN,
        tail_energy: float = 0.15,
        hold_biases: bool = True,
        freeze_rest: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not 0 <= tail_energy <= 1:
            raise InputError(f"the tail energy is a share in [0, 1], not {tail_energy}")
        self.layers = _linear_layers(model.tower("image"), pattern)
        self.tail_energy = tail_energy
        self.hold_biases, self.freeze_rest = hold_biases, freeze_rest
        self.dtype = dtype
        self.covariances: dict[str, torch.Tensor] = {}
        self._bases: dict[str, torch.Tensor] = {}
        self._before: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def prepare_parameters(self, strategy: Strategy) -> None:
        if not any(p.requires_grad for layer in self.layers.values() for p in layer.parameters()):
            raise InputError(
                "null-space projection holds layers of the image tower, and they are frozen: nothing is left to hold "
                "and, with freeze_rest, nothing to train from the second experience on: unfreeze the image tower"
            )
        if self.freeze_rest and self.covariances:
            kept = {id(p) for layer in self.layers.values() for p in layer.parameters()}
            for parameter in strategy.model.parameters():
                parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        inside = {id(module) for module in strategy.model.modules()}
        if not all(id(layer) in inside for layer in self.layers.values()):
            raise InputError("null-space projection was made for another model than the one that is trained")
        for name, covariance in self.covariances.items():
            self._bases[name] = null_space(covariance.to(self.layers[name].weight.device), self.tail_energy)

    def before_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for name in self._bases:
            layer = self.layers[name]
            bias = layer.bias if self.hold_biases else None
            self._before[name] = layer.weight.detach().clone(), None if bias is None else bias.detach().clone()

    @torch.no_grad()
    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for name, (weight, bias) in self._before.items():
            layer = self.layers[name]
            layer.weight.copy_(weight + project(layer.weight - weight, input_basis=self._bases[name]))
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)
        self._before = {}

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._bases = {}
        model = model_of(strategy)
        found = {
            name: torch.zeros(layer.in_features, layer.in_features, dtype=self.dtype, device=layer.weight.device)
            for name, layer in self.layers.items()
        }

        def read(name: str, x: torch.Tensor) -> None:
            accumulate_covariance(found[name], x)

        with model.evaluating(), reading_inputs(self.layers, read, found):
            for x, *_ in experience_batches(strategy):
                model.encode_image_plain(images_of(x))
        for name, covariance in found.items():
            norm = torch.linalg.matrix_norm(covariance)
            if norm == 0:
                raise InputError(f"null-space projection saw no input of {name}: it is not called as a layer")
            covariance /= norm
            if name in self.covariances:
                covariance += self.covariances[name].to(covariance)
            self.covariances[name] = covariance


def _linear_layers(tower: nn.Module, pattern: str) -> dict[str, nn.Linear]:
    modules = dict(tower.named_modules())
    layers = {name: module for name, module in modules.items() if re.search(pattern, name)}
    if not layers:
        kind = type(tower).__name__
        raise InputError(f"null-space projection found no layer of the image tower, a {kind}, that matches {pattern!r}")
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear) or isinstance(modules[name.rpartition(".")[0]], nn.MultiheadAttention):
            raise InputError(
                f"null-space projection cannot hold {name}, a {type(layer).__name__}: give a pattern of linear layers "
                "outside attention"
            )
    return layers
