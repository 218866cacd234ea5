"""One low-rank change per task that ends in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import DEFAULT_PATTERN, PARTS, LoRALayer, inject_lora
from avalanche_vlm.models.modules.tail import TailLowRank
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.plugins.towers import training_towers
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.sharding import whole_weights

Start = Literal["lora", "tail", "residual"]

_NAME = "task"
"""Of every task's module: Avalanche then puts the new one in the old one's place in the optimizer."""


class MergedLowRankPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the VLM, learn a low-rank module of some layers per experience, and add it to their weights at its end.

    Nothing is kept between tasks, and the deployed model has the parameters that it had before. The module of the next
    task starts from the merged weights:

    - ``"lora"``: ``B A``, both trained (C-CLIP, Liu et al., ICLR 2025, eq. 2);
    - ``"tail"``: ``U_n M V_n^T`` in the tail of the current weight, ``M`` trained (NuSA-CL, arXiv 2510.21175); a layer
      whose weight has no tail that small stays as it is;
    - ``"residual"``: ``B V_n^T`` with the same ``V_n``, ``B`` trained (KeepLoRA's subspace, arXiv 2601.19659).

    With a coefficient below 1 a task ends with a part of its change: what is evaluated while it trains is all of it.
    Norms, biases, embeddings, output matrices and the logit scale stay as they are. A plugin that reads weights at a
    task's end has to stand after this one.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, layers injected.
    :param towers: towers that get modules, of ``"image"`` and ``"text"``; one that is frozen in the model stays as it
        is.
    :param rank: inner width of a module, at least 1; the tail's may be less.
    :param alpha: scale of a change of ``"lora"`` times its rank, and of the others times the square root of their
        number of directions; None for a scale of 1.
    :param parts: which projections of attention get a module, of q, k, v, out.
    :param pattern: regular expression that is searched in the names of the towers' layers.
    :param merge: coefficient of the change that stays, in (0, 1].
    :param init: what the module of a task starts as, of the kinds above.
    :param tail_energy: share of a weight's squared singular values that the directions of ``"tail"`` and
        ``"residual"`` may hold, in (0, 1], see :class:`~avalanche_vlm.models.modules.tail.TailLowRank`.
    :param dropout: share of the inputs of a change of ``"tail"`` or ``"residual"`` that are zero in a training step, in
        [0, 1).
    :raises InputError: for a tower, part or kind that there is not, a number out of its range, towers that are all
        frozen, or layers that cannot be adapted; as a task starts, if no layer has a direction in its tail.
    """

    states: ClassVar = {"_banks": IN_MODEL}

    def __init__(
        self,
        model: VLM,
        *,
        towers: Sequence[str] = ("image", "text"),
        rank: int = 8,
        alpha: float | None = None,
        parts: Sequence[str] = PARTS,
        pattern: str = DEFAULT_PATTERN,
        merge: float = 1.0,
        init: Start = "lora",
        tail_energy: float = 0.05,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        chosen = training_towers(model, towers, "a merged low-rank change")
        if not 0 < merge <= 1:
            raise InputError(f"the coefficient of a merged change lies in (0, 1], not {merge}")
        if init not in get_args(Start):
            raise InputError(f"a low-rank module starts as {', '.join(get_args(Start))}, not {init!r}")
        if not 0 < tail_energy <= 1:
            raise InputError(f"the tail's share of a weight's energy lies in (0, 1], not {tail_energy}")
        if not 0 <= dropout < 1:
            raise InputError(f"the dropout of a low-rank change lies in [0, 1), not {dropout}")
        if dropout and init == "lora":
            raise InputError("dropout is for changes that start as tail or residual: those of lora have none")
        self.merge = merge
        tail = partial(
            TailLowRank,
            rank=rank,
            tail_energy=tail_energy,
            hold_outputs=init == "tail",
            alpha=alpha,
            dropout=dropout,
        )
        make = None if init == "lora" else tail
        self.layers: list[LoRALayer] = []
        for tower in chosen:
            found = inject_lora(model.tower(tower), rank=rank, alpha=alpha, pattern=pattern, parts=parts, make=make)
            self.layers += found.values()
        model.freeze("image", "text", "scale")

    @property
    def _banks(self) -> list[nn.Module]:
        return [layer.bank for layer in self.layers]

    def prepare_parameters(self, strategy: Strategy) -> None:
        for layer in self.layers:
            layer.add(_NAME)
            layer.active = _NAME
        if not any(p.numel() for layer in self.layers for p in layer.bank[_NAME].parameters()):
            raise InputError(
                "no weight has a tail that small: no direction is left for its change, so raise tail_energy"
            )

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        with whole_weights(strategy):
            for layer in self.layers:
                layer.merge(_NAME, self.merge)
