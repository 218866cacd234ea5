"""Low-rank changes that keep out of what the pretrained weights use and of what past tasks have read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from avalanche.models import avalanche_forward
from torch import nn

from avalanche_vlm._ranks import together
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import IN_MODEL, KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import ATTENTION_PATTERN, PARTS, LoRAAttention, LoRALayer, inject_lora
from avalanche_vlm.models.modules.low_rank import SubspaceLowRank
from avalanche_vlm.training.data import experience_batches, images_of, labelled
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.plugins.layer_inputs import reading_inputs
from avalanche_vlm.training.plugins.towers import training_towers
from avalanche_vlm.training.protocol import Strategy, is_pair_stream, model_of
from avalanche_vlm.training.strategies import autocast_of
from avalanche_vlm.weights.average import State
from avalanche_vlm.weights.subspaces import accumulate_covariance, grow_basis, steepest_directions

_NAME = "task"
"""Of every task's module: Avalanche then puts the new one in the old one's place in the optimizer."""


class _Weight(NamedTuple):
    """A weight that is adapted: the layer that has it, which of the layer's weights it is, and ``[out, in]`` itself."""

    where: str
    part: str
    value: torch.Tensor

    @property
    def name(self) -> str:
        return f"{self.where}.{self.part}"

    @property
    def rows(self) -> slice:
        """Where in the layer's parameter it is: attention has its projections in one."""
        start = 0 if self.part == "weight" else PARTS.index(self.part) * len(self.value)
        return slice(start, start + len(self.value))


class SubspaceLoRAPlugin(VLMPlugin, supports_distributed=True):
    """Freeze the VLM, learn in every experience a low-rank change of the weights that reads nothing from a protected
    subspace of their inputs, and merge it at the end: KeepLoRA (Luo et al., arXiv 2601.19659).

    Of every weight ``W [out, in]`` a basis ``M [in, k]`` is protected. It starts as the first right singular vectors of
    the pretrained weight, as many as hold a share of its squared singular values. Before a task is trained, the
    gradient ``G [out, in]`` of its loss over all its data is projected, ``G - G M M^T``, and the first ``rank`` right
    singular vectors of that are the fixed ``A`` of ``alpha / rank * B A``, of which ``B`` trains. After the task the
    change is merged and ``M`` grows by the fewest directions with which it holds a share of the energy of the task's
    inputs of that layer. What the model answers to inputs inside the protected subspace can then not change any more.

    Beside a step of LoRA it costs a forward and backward pass over the data before each experience, as for training the
    layers whole, a forward pass after it, and a singular value decomposition per weight and experience. The bases are
    kept: k numbers for every input of a weight, at most as many as the weight of a square layer has.

    A plugin that reads weights at a task's end has to stand after this one.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, layers injected.
    :param towers: towers that are adapted, of ``"image"`` and ``"text"``; one that is frozen in the model stays as it
        is.
    :param rank: directions per weight at most; fewer where the projected gradient has not that many.
    :param alpha: scale of a change times its rank.
    :param parts: which projections of attention are adapted, of q, k, v, out.
    :param pattern: regular expression that is searched in the names of the towers' layers.
    :param weight_energy: share of a pretrained weight's squared singular values that is protected, for all towers or by
        tower, in [0, 1]; 0 protects nothing of it.
    :param feature_energy: share of the inputs' energy of every past task that is protected, in [0, 1].
    :raises InputError: for a tower or part that there is not, a number out of its range, towers that are all frozen,
        or layers that cannot be adapted.
    """

    states: ClassVar = {"bases": KEPT, "_banks": IN_MODEL}
    cannot: ClassVar = {
        "fp16": "it takes gradients by itself, which are rounded to zero there unless the loss is scaled"
    }

    def __init__(
        self,
        model: VLM,
        *,
        towers: Sequence[str] = ("image", "text"),
        rank: int = 16,
        alpha: float = 1.0,
        parts: Sequence[str] = PARTS,
        pattern: str = ATTENTION_PATTERN,
        weight_energy: float | dict[str, float] = 0.85,
        feature_energy: float = 0.99,
    ) -> None:
        super().__init__()
        towers = training_towers(model, towers, "KeepLoRA")
        shares = weight_energy if isinstance(weight_energy, dict) else dict.fromkeys(towers, weight_energy)
        for tower in towers:
            _share(shares.get(tower, 0.0), f"weights ({tower})")
        _share(feature_energy, "features")
        self.towers, self.feature_energy = tuple(towers), feature_energy
        make = partial(SubspaceLowRank, rank=rank, alpha=alpha)
        self.layers: dict[str, LoRALayer] = {}
        self.bases: State = {}
        """The protected basis ``[in, k]`` of every weight, by its name."""
        for tower in towers:
            found = inject_lora(model.tower(tower), rank=rank, pattern=pattern, parts=parts, make=make)
            self.layers |= {f"{tower}.{name}": layer for name, layer in found.items() if layer.weights()}
        model.freeze("image", "text", "scale")
        for weight in self._weights():
            value, share = weight.value.detach().float(), shares.get(weight.where.partition(".")[0], 0.0)
            self.bases[weight.name] = grow_basis(value.new_zeros(value.shape[1], 0), value.T @ value, share)

    @property
    def _banks(self) -> list[nn.Module]:
        return [layer.bank for layer in self.layers.values()]

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        self.bases = {}  # they have grown since

    def prepare_parameters(self, strategy: Strategy) -> None:
        for layer in self.layers.values():
            layer.add(_NAME)
            layer.active = _NAME

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        gradients = self._gradients(strategy)
        for weight in self._weights():
            module = self.layers[weight.where].bank[_NAME].get_submodule(weight.part)
            assert isinstance(module, SubspaceLowRank)
            gradient = gradients[weight.where][weight.rows]
            module.read(steepest_directions(gradient, self.bases[weight.name].to(gradient), len(module.A)))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for layer in self.layers.values():
            layer.merge(_NAME)
        covariances = self._covariances(strategy)
        for weight in self._weights():
            covariance = covariances[weight.where]
            basis = self.bases[weight.name].to(covariance)
            self.bases[weight.name] = grow_basis(basis, covariance, self.feature_energy)

    def _weights(self) -> Iterator[_Weight]:
        for where, layer in self.layers.items():
            for part, value in layer.weights().items():
                yield _Weight(where, part, value)

    def _gradients(self, strategy: Strategy) -> State:
        """The mean gradient of every layer's parameter ``[out, in]`` over the batches of the experience, as it would be
        trained whole from where it is. The new modules have no directions yet, so that they take no part."""
        parents = {
            where: layer.get_parameter("in_proj_weight" if isinstance(layer, LoRAAttention) else "weight")
            for where, layer in self.layers.items()
        }
        total = {where: torch.zeros_like(parent) for where, parent in parents.items()}
        batches = 0
        for parent in parents.values():
            parent.requires_grad_(True)
        try:
            for batch in ByPlace(strategy.dataloader, draws=True):
                x, y, task_labels = labelled(batch)
                x, y, task_labels = x.to(strategy.device), y.to(strategy.device), task_labels.to(strategy.device)
                with autocast_of(strategy):
                    loss = criterion_of(strategy)(avalanche_forward(strategy.model, x, task_labels), y)
                found = torch.autograd.grad(loss, list(parents.values()), allow_unused=True)
                for where, gradient in zip(parents, found, strict=True):
                    if gradient is None:
                        raise InputError(f"the loss of the strategy does not reach {where}, which KeepLoRA adapts")
                    total[where] += gradient
                batches += 1
        finally:
            for parent in parents.values():
                parent.requires_grad_(False)
        if (ranks := together()) is not None:
            ranks.average_(total.values())
        return {where: gradient / batches for where, gradient in total.items()}

    def _covariances(self, strategy: Strategy) -> State:
        """The uncentred covariance ``[in, in]`` of every layer's inputs over the experience."""
        model = model_of(strategy)
        found = {}
        for weight in self._weights():
            width = weight.value.shape[1]
            found[weight.where] = torch.zeros(width, width, device=weight.value.device)
        layers = {where: self.layers[where] for where in found}

        def read(where: str, x: torch.Tensor) -> None:
            accumulate_covariance(found[where], x)

        with model.evaluating(), model.whole_texts(), reading_inputs(layers, read, found):
            for x, *_ in experience_batches(strategy):
                if "image" in self.towers:
                    model.encode_image_plain(images_of(x))
                if "text" in self.towers and isinstance(x, ImageText):
                    model.encode_text(x.tokens, padding=x.padding)
            if "text" in self.towers and not is_pair_stream(strategy):
                classes = torch.tensor(classes_of(strategy.experience))
                model.prompts(classes).encode(model.encode_text)
        return found


def _share(value: float, of: str) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"the protected share of the energy of {of} lies in [0, 1], not {value}")
