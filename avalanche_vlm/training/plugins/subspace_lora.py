"""Low-rank changes that keep out of what the pretrained weights use and of what past tasks have read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from avalanche.models import avalanche_forward

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.compat import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import (
    ATTENTION_PATTERN,
    PARTS,
    LoRAAttention,
    LoRALayer,
    inject_lora,
)
from avalanche_vlm.models.modules.low_rank import SubspaceLowRank
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.training.data import experience_batches, images_of
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of
from avalanche_vlm.weights.subspaces import accumulate_covariance

_NAME = "task"
"""Of every task's module: Avalanche then puts the new one in the old one's place in the optimizer."""

Place = tuple[str, str]
"""A layer, and which of its weights."""


class SubspaceLoRAPlugin(VLMPlugin):
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

    :param model: adapted in place at construction: towers frozen, layers injected.
    :param towers: of ``"image"`` and ``"text"``.
    :param rank: directions per weight at most; fewer where the projected gradient has not that many.
    :param alpha: scale times rank.
    :param parts: which projections of attention, of q, k, v, out.
    :param pattern: which layers of the towers, by name.
    :param weight_energy: share of a pretrained weight's squared singular values that is protected, for all towers or by
        tower, in [0, 1]; 0 protects nothing of it.
    :param feature_energy: share of the inputs' energy of every past task that is protected, in [0, 1].
    :raises InputError: for a tower or part that there is not, a number out of its range, or layers that cannot be
        adapted.
    """

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
        if not towers or not set(towers) <= {"image", "text"}:
            raise InputError(f"low-rank modules go into the towers image and text, not {', '.join(towers) or 'none'}")
        shares = weight_energy if isinstance(weight_energy, dict) else dict.fromkeys(towers, weight_energy)
        for tower in towers:
            _share(shares.get(tower, 0.0), f"weights ({tower})")
        _share(feature_energy, "features")
        self.towers, self.feature_energy = tuple(towers), feature_energy
        model.freeze("image", "text", "scale")
        make = partial(SubspaceLowRank, rank=rank, alpha=alpha)
        self.layers: dict[str, LoRALayer] = {}
        self.bases: dict[Place, torch.Tensor] = {}
        for tower in towers:
            found = inject_lora(model.tower(tower), rank=rank, pattern=pattern, parts=parts, make=make)
            self.layers |= named(tower, {name: layer for name, layer in found.items() if layer.weights()})
        for (where, part), weight in self._weights():
            weight = weight.detach().float()
            self.bases[where, part] = grown(
                weight.new_zeros(weight.shape[1], 0), weight.T @ weight, shares.get(where.partition(".")[0], 0.0)
            )

    def prepare_parameters(self, strategy: Strategy) -> None:
        for layer in self.layers.values():
            layer.add(_NAME)
            layer.active = _NAME

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for place, gradient in self._gradients(strategy).items():
            module = self.layers[place[0]].bank[_NAME][place[1]]
            basis = self.bases[place].to(gradient)
            module.read(directions(gradient, basis, len(module.A)))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for layer in self.layers.values():
            layer.merge(_NAME)
        for place, covariance in self._covariances(strategy).items():
            self.bases[place] = grown(self.bases[place].to(covariance), covariance, self.feature_energy)

    def stored(self) -> StoredBytes:
        modules = [layer.bank for layer in self.layers.values()]
        kept = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        return StoredBytes(ram=tensor_bytes([*kept, *self.bases.values()]))

    def _weights(self) -> Iterator[tuple[Place, torch.Tensor]]:
        for where, layer in self.layers.items():
            for part, weight in layer.weights().items():
                yield (where, part), weight

    def _gradients(self, strategy: Strategy) -> dict[Place, torch.Tensor]:
        """The mean gradient ``[out, in]`` of every weight over the batches of the experience, as it would be trained
        whole from where it is. The new modules have no directions yet, so that they take no part."""
        parents = {
            where: layer.in_proj_weight if isinstance(layer, LoRAAttention) else layer.weight
            for where, layer in self.layers.items()
        }
        total = {where: torch.zeros_like(parent) for where, parent in parents.items()}
        batches = 0
        for parent in parents.values():
            parent.requires_grad_(True)
        try:
            for batch in strategy.dataloader:
                x, y, *_, task_labels = (part.to(strategy.device) for part in batch)
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
        return {place: total[place[0]][rows] / batches for place, rows in self._rows()}

    def _rows(self) -> Iterator[tuple[Place, slice]]:
        """Where in its layer's parameter a weight is."""
        for (where, part), weight in self._weights():
            start = 0 if part == "weight" else PARTS.index(part) * len(weight)
            yield (where, part), slice(start, start + len(weight))

    def _covariances(self, strategy: Strategy) -> dict[Place, torch.Tensor]:
        """The uncentred covariance ``[in, in]`` of every weight's inputs over the experience."""
        model: VLM = strategy.model
        found = {}
        for (where, _), weight in self._weights():
            found[where] = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
        read = {where: partial(accumulate_covariance, covariance) for where, covariance in found.items()}
        with model.evaluating(), self._reading(read):
            for x, *_ in experience_batches(strategy):
                if "image" in self.towers:
                    model.encode_image_plain(images_of(x))
                if "text" in self.towers and isinstance(x, ImageText):
                    model.encode_text(x.tokens)
            classes = getattr(strategy.experience, "classes_in_this_experience", None)
            if "text" in self.towers and not isinstance(x, ImageText):
                model.prompts(torch.tensor(sorted(classes))).encode(model.encode_text)
        return {(where, part): found[where] for (where, part), _ in self._weights()}

    @contextmanager
    def _reading(self, read: dict[str, Callable[[torch.Tensor], None]]) -> Iterator[None]:
        """Hand every input of the layers to a function, for as long as the block lasts."""
        handles = [
            self.layers[where].register_forward_pre_hook(lambda _, inputs, take=take: take(inputs[0]))
            for where, take in read.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def grown(basis: torch.Tensor, covariance: torch.Tensor, share: float) -> torch.Tensor:
    """A basis with the fewest further directions with which it holds a share of the energy.

    KeepLoRA's growth of the unified subspace, which is Gradient Projection Memory's (Saha et al., arXiv 2103.09762, eq.
    9): the eigenvectors of ``(I - M M^T) C (I - M M^T)`` from the largest eigenvalue on, until these and what ``M``
    holds sum up to the share of the trace of ``C``.

    :param basis: ``M [in, k]``, orthonormal columns; k may be 0.
    :param covariance: ``C [in, in]``, symmetric and positive semi-definite.
    :param share: in [0, 1].
    :return: ``[in, k']``, orthonormal, k' at least k and at most ``in``.

    >>> grown(torch.eye(3)[:, :1], torch.diag(torch.tensor([1.0, 8.0, 1.0])), share=0.9).shape
    torch.Size([3, 2])
    """
    wanted = share * covariance.trace()
    rest = covariance - basis @ (basis.T @ covariance)
    rest = rest - (rest @ basis) @ basis.T
    held = covariance.trace() - rest.trace()
    energies, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    energies, vectors = energies.flip(0), vectors.flip(1)
    # What is below the precision is no direction of the data.
    noise = torch.finfo(energies.dtype).eps * len(energies) * covariance.trace()
    before = held + energies.cumsum(0) - energies
    count = int(((before < wanted) & (energies > noise)).sum())
    # Rounding must not add up over tasks: M M^T has to stay a projector.
    return torch.linalg.qr(torch.cat([basis, vectors[:, :count]], dim=1)).Q if count else basis


@torch.no_grad()
def directions(gradient: torch.Tensor, basis: torch.Tensor, rank: int) -> torch.Tensor:
    """The input directions in which a loss falls fastest outside of a subspace: the first right singular vectors of
    ``G - G M M^T``.

    :param gradient: ``G [out, in]``.
    :param basis: ``M [in, k]``, orthonormal columns.
    :param rank: how many at most. Directions that the projected gradient does not have are left out: nothing would
        keep them off the subspace.
    :return: orthonormal rows ``[r, in]``, r at most ``rank``; none where all inputs are protected.

    >>> directions(torch.tensor([[3.0, 2.0, 0.0]]), torch.eye(3)[:, :1], rank=2).abs()
    tensor([[0., 1., 0.]])
    """
    gradient, basis = gradient.float(), basis.float()
    _, strengths, vectors = torch.linalg.svd(gradient - gradient @ basis @ basis.T, full_matrices=False)
    noise = torch.finfo(strengths.dtype).eps * max(gradient.shape) * torch.linalg.matrix_norm(gradient)
    found = vectors[:rank][strengths[:rank] > noise]
    # Once more, as the weakest are the least exact.
    found = found - found @ basis @ basis.T
    return torch.linalg.qr(found.T).Q.T


def _share(value: float, of: str) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"the protected share of the energy of {of} lies in [0, 1], not {value}")
