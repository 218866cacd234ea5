"""Mixtures of experts beside a tower's layers: the experts are everyone's, and every task has a gate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._ranks import together
from avalanche_vlm._rows import among, normal, of_all, summed
from avalanche_vlm.compat.tensors import largest_of_each
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.adapter import DEFAULT_PATTERN, Adapter, OutputSite, put_sites
from avalanche_vlm.models.modules.chosen_adapters import chosen_adapters, run_together


class ExpertChoice(NamedTuple):
    """Which experts work on a sample.

    :param experts: int64 ``[B, k]``, the chosen ones.
    :param weights: ``[B, k]``, of their outputs; they sum to 1.
    :param load: ``[B, E]``, how probable it was that each would be chosen; None where nothing was drawn.
    """

    experts: torch.Tensor
    weights: torch.Tensor
    load: torch.Tensor | None


def noisy_top_k(logits: torch.Tensor, deviation: torch.Tensor | None, k: int) -> ExpertChoice:
    """Noisy top-k gating (Shazeer et al., arXiv 1701.06538, eq. 3 to 5, and 9 for the load).

    An expert's probability of being chosen is over a new draw of its own noise, while that of the others stays.

    :param logits: scores of the experts ``[B, E]``.
    :param deviation: standard deviation of the normal noise, ``[B, E]``; None adds none.
    :param k: experts per sample, at most E.

    >>> noisy_top_k(torch.tensor([[1.0, 3.0, 3.0]]), None, 2)[1:]
    (tensor([[0.5000, 0.5000]]), None)
    """
    noisy = logits if deviation is None else logits + deviation * normal(logits)
    top, experts = noisy.topk(min(k + 1, logits.shape[1]), dim=1)
    chosen, weights = experts[:, :k], top[:, :k].softmax(1)
    if deviation is None or top.shape[1] == k:
        return ExpertChoice(chosen, weights, None)
    # The k-th largest of the others: for those that were chosen the next one in line, for the rest the last chosen.
    threshold = top[:, k - 1 : k].expand_as(logits).scatter(1, chosen, top[:, k:].expand_as(chosen))
    return ExpertChoice(chosen, weights, torch.special.ndtr((logits - threshold) / deviation))


def load_balance(choice: ExpertChoice, experts: int) -> torch.Tensor:
    """How unequally a batch uses the experts: the squared coefficients of variation of their importance, which is the
    sum of their weights, and of their load (arXiv 1701.06538, eq. 6, 7, 10 and 11, both weights 1).

    :param choice: the choice for a batch.
    :param experts: how many there are.

    >>> load_balance(ExpertChoice(torch.tensor([[0], [0]]), torch.ones(2, 1), None), 2)
    tensor(1.)
    """
    weights = choice.weights
    importance = weights.new_zeros(experts).index_add(0, choice.experts.flatten(), weights.flatten())
    unequal = _variation(summed(importance))
    return unequal if choice.load is None else unequal + _variation(summed(choice.load.sum(0)))


def _variation(x: torch.Tensor) -> torch.Tensor:
    """The squared coefficient of variation of ``[n]``, which are all there are and no sample of more."""
    return x.var(correction=0) / (x.mean().square() + 1e-10)


def mixture(
    x: torch.Tensor, choice: ExpertChoice, experts: nn.ModuleList | Sequence[nn.Module], like: torch.Tensor
) -> torch.Tensor:
    """The weighted sum of what each sample's experts make of it. On the CPU every expert that was chosen runs once, on
    its own samples, and the others do not run. On an accelerator, where it would have to be waited for to learn which
    these are, adapters run as :func:`~avalanche_vlm.models.modules.chosen_adapters.chosen_adapters` has them.

    :param x: ``[B, L, D]``.
    :param like: what the sum looks like, ``[B, L, D']``.
    """
    if x.device.type != "cpu" and together() is None and run_together(experts):
        return chosen_adapters(x, choice.experts, choice.weights, experts, like)
    chosen = of_all(choice.experts)
    shared = chosen is not choice.experts
    own = choice.experts.flatten()
    # Expert by expert, and each one's samples in their order. All are picked at once: of one pick for each expert, the
    # gradient would be a whole batch of zeros each time but for its own samples.
    order = own.argsort(stable=True)
    rows = order.div(choice.experts.shape[1], rounding_mode="floor")
    counts = own.bincount(minlength=len(experts)).tolist()
    # Of a share of a batch, an expert that the others' samples chose runs too, so that all draw the same.
    used = chosen.unique().tolist() if shared else [expert for expert, count in enumerate(counts) if count]
    parts = []
    for expert, part in zip(used, x.index_select(0, rows).split([counts[expert] for expert in used]), strict=True):
        with among((chosen == expert).any(1)) if shared else nullcontext():
            parts.append(experts[expert](part))
    if not parts:
        return torch.zeros_like(like)
    added = torch.cat(parts)
    added = choice.weights.flatten()[order][:, None, None].to(added.dtype) * added
    return torch.zeros_like(like).index_add(0, rows, added.to(like.dtype))


class Gate(nn.Module):
    """Chooses experts by a sample's first token, with noise in training alone.

    Its weights start at zero, and the deviation of the noise is at least 0.01, as in the code of MoE-Adapters.

    :param width: numbers per token.
    :param experts: how many experts there are to choose from.
    :param k: how many a sample gets.
    """

    def __init__(self, width: int, experts: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.weight = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))

    def forward(self, x: torch.Tensor) -> ExpertChoice:
        """The choice for tokens ``[B, D]``."""
        # Half precision would decide between near experts by its rounding.
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(self.weight.dtype, torch.float32)
            x = x.to(exact)
            deviation = F.softplus(x @ self.noise.to(exact)) + 0.01 if self.training else None
            return noisy_top_k(x @ self.weight.to(exact), deviation, self.k)


class ExpertSite(OutputSite):
    """Experts beside a layer. A module of the pool is a gate; the experts belong to the place.

    :param host: works on tokens, ``[B, L, D]``.
    :param width: numbers per token that it reads.
    :param experts: what the gates choose from; each is called with tokens ``[n, L, D]`` and gives what it adds to the
        layer's output.
    :param k: experts per sample.
    :param batch_first: False for a host that works on ``[L, B, D]``.
    """

    usage: torch.Tensor
    frozen: torch.Tensor

    def __init__(
        self, host: nn.Module, width: int, experts: Sequence[nn.Module], k: int, batch_first: bool = True
    ) -> None:
        super().__init__(host)
        self.width, self.k, self.batch_first = width, k, batch_first
        like = self.reference
        self.experts = nn.ModuleList(experts).to(like.device, like.dtype)
        self.register_buffer("usage", torch.zeros(len(experts), dtype=torch.long, device=like.device))
        self.register_buffer("frozen", torch.zeros(len(experts), dtype=torch.bool, device=like.device))
        self.balances: list[torch.Tensor] | None = None
        """A list here gets :func:`load_balance` of every forward pass in training."""
        self.lately: torch.Tensor | None = None
        """How many samples chose each expert since :func:`leave_alone`, int64 ``[E]``; None for no forward pass."""

    @property
    def shared(self) -> nn.Module:
        """The experts."""
        return self.experts

    def build(self) -> Gate:
        """A new gate."""
        return Gate(self.width, len(self.experts), self.k)

    def change(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What the experts of the active gate's choice add to ``y``; raises InputError where there are no tokens."""
        if x.ndim != 3:
            raise InputError(f"experts are chosen by a sample's first token, and there are none in {list(x.shape)}")
        if not self.batch_first:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        choice = self.module(x[:, 0])
        if self.module.training:
            chosen = of_all(choice.experts).flatten()
            counted = torch.zeros_like(self.usage).index_add(0, chosen, torch.ones_like(chosen))
            self.usage += counted
            self.lately = counted if self.lately is None else self.lately + counted
            if self.balances is not None:
                self.balances.append(load_balance(choice, len(self.experts)))
        added = mixture(x, choice, self.experts, y)
        return added if self.batch_first else added.transpose(0, 1)

    def start(self) -> None:
        """Before a task: count anew, and train what is not frozen."""
        self.usage.zero_()
        for expert, frozen in zip(self.experts, self.frozen.tolist(), strict=True):
            expert.requires_grad_(not frozen)

    def freeze_most_used(self, n: int) -> list[int]:
        """Freeze the experts that the task's samples chose most often in training, for good.

        Those that are frozen already count among them, as in the code of MoE-Adapters: a task that goes on using them
        freezes fewer new ones.

        :return: their numbers, at most ``n``.
        """
        most = self.usage.topk(min(n, len(self.experts))).indices
        most = most[self.usage[most] > 0]
        self.frozen[most] = True
        for expert in most.tolist():
            self.experts[expert].requires_grad_(False)
            for parameter in self.experts[expert].parameters():
                parameter.grad = None
        return most.tolist()


def leave_alone(sites: Iterable[ExpertSite]) -> None:
    """After a backward pass: experts that no sample chose since the last one have no gradient, so that momentum and
    weight decay pass them by, unless something else has given them one, such as a penalty on weights. Waits once for an
    accelerator, whatever the number of places.

    :param sites: the places of the experts.
    """
    seen = [(site, site.lately) for site in sites if site.lately is not None]
    for site, _ in seen:
        site.lately = None
    held = []
    for site, lately in seen:
        # The CPU knows already which experts were chosen, and those keep their gradients whatever these are.
        chosen = lately.tolist() if lately.device.type == "cpu" else [0] * len(lately)
        idle = ((expert, lately[n]) for n, expert in enumerate(site.experts) if not chosen[n])
        held += [(p, p.grad, count) for expert, count in idle for p in expert.parameters() if p.grad is not None]
    if not held:
        return
    # Experts that run together all have a gradient, of zeros where they were not chosen; the CPU runs those chosen.
    largest = largest_of_each([gradient for _, gradient, _ in held])
    goes = torch.stack(largest).ne(0) | torch.stack([count for *_, count in held]).bool()
    for (parameter, *_), stays in zip(held, goes.tolist(), strict=True):
        if not stays:
            parameter.grad = None


def inject_experts(
    tower: nn.Module,
    *,
    experts: int = 22,
    k: int = 2,
    bottleneck: int = 64,
    scale: float = 0.1,
    dropout: float = 0.1,
    pattern: str = DEFAULT_PATTERN,
) -> dict[str, ExpertSite]:
    """Put experts beside the matching layers of a tower; the layers and their state-dict keys stay.

    The defaults are those of MoE-Adapters (Yu et al., arXiv 2403.11549).

    :param tower: a tower, for example ``clip.visual``.
    :param experts: number of experts in every place, at least 1.
    :param k: how many of them work on a sample, at least 1.
    :param bottleneck: inner width of adapters, at least 1.
    :param scale: factor of what an adapter adds.
    :param dropout: share of an adapter's inner values left out in training, in [0, 1).
    :param pattern: regular expression searched in module names; must match layers that work on tokens.
    :return: the places by name, in the tower's order.
    :raises InputError: for a setting out of its range, and as
        :func:`~avalanche_vlm.models.modules.adapter.inject_adapters`.
    """
    whole(experts, 1, "the number of experts")
    if whole(k, 1, "the number of experts per sample") > experts:
        raise InputError(f"a sample cannot have {k} of {experts} experts")
    settings: dict[str, Any] = {"bottleneck": bottleneck, "scale": scale, "dropout": dropout}
    Adapter(1, **settings)  # refuses wrong settings before anything changes

    def place(name: str, host: nn.Module, reads: int, _gives: int) -> ExpertSite:
        new = [Adapter(reads, **settings) for _ in range(experts)]
        return ExpertSite(host, reads, new, k, _batch_first(tower, name))

    return put_sites(tower, pattern, "experts", ExpertSite, place, same=True)


def _batch_first(tower: nn.Module, name: str) -> bool:
    """Whether a layer of a block has the batch on its first axis: as the block's attention has."""
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        attention = getattr(tower.get_submodule(".".join(path[:depth])), "attn", None)
        if attention is not None:
            return getattr(attention, "batch_first", True)
    return True
