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
from avalanche_vlm.training.protocol import Strategy

Start = Literal["lora", "tail", "residual"]

_NAME = "task"
"""Of every task's module: Avalanche then puts the new one in the old one's place in the optimizer."""


class MergedLowRankPlugin(VLMPlugin):
    """Freeze the VLM, learn a low-rank module of some layers per experience, and add it to their weights at its end.

    Nothing is kept between tasks, and the deployed model has the parameters that it had before. The module of the next
    task starts from the merged weights:

    - ``"lora"``: ``B A``, both trained (C-CLIP, Liu et al., ICLR 2025, eq. 2);
    - ``"tail"``: ``U_n M V_n^T`` in the tail of the current weight, ``M`` trained (NuSA-CL, arXiv 2510.21175);
    - ``"residual"``: ``B V_n^T`` with the same ``V_n``, ``B`` trained (KeepLoRA's subspace, arXiv 2601.19659).

    With a coefficient below 1 a task ends with a part of its change: what is evaluated while it trains is all of it.
    Norms, biases, embeddings, output matrices and the logit scale stay as they are. A plugin that reads weights at a
    task's end has to stand after this one.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, layers injected.
    :param towers: towers that get modules, of ``"image"`` and ``"text"``.
    :param rank: inner width of a module, at least 1; the tail's may be less.
    :param alpha: scale of a change times its rank; None takes the rank.
    :param parts: which projections of attention get a module, of q, k, v, out.
    :param pattern: regular expression that is searched in the names of the towers' layers.
    :param merge: coefficient of the change that stays, in (0, 1].
    :param init: what the module of a task starts as, of the kinds above.
    :param tail_energy: share of a weight's squared singular values that the directions of ``"tail"`` and
        ``"residual"`` may hold, in (0, 1], see :class:`~avalanche_vlm.models.modules.tail.TailLowRank`.
    :raises InputError: for a tower, part or kind that there is not, a number out of its range, or layers that cannot
        be adapted.
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
    ) -> None:
        super().__init__()
        if not towers or not set(towers) <= {"image", "text"}:
            raise InputError(f"low-rank modules go into the towers image and text, not {', '.join(towers) or 'none'}")
        if not 0 < merge <= 1:
            raise InputError(f"the coefficient of a merged change lies in (0, 1], not {merge}")
        if init not in get_args(Start):
            raise InputError(f"a low-rank module starts as {', '.join(get_args(Start))}, not {init!r}")
        if not 0 < tail_energy <= 1:
            raise InputError(f"the tail's share of a weight's energy lies in (0, 1], not {tail_energy}")
        self.merge = merge
        tail = partial(TailLowRank, rank=rank, tail_energy=tail_energy, hold_outputs=init == "tail")
        make = None if init == "lora" else tail
        model.freeze("image", "text", "scale")
        self.layers: list[LoRALayer] = []
        for tower in towers:
            found = inject_lora(model.tower(tower), rank=rank, alpha=alpha, pattern=pattern, parts=parts, make=make)
            self.layers += found.values()

    @property
    def _banks(self) -> list[nn.Module]:
        return [layer.bank for layer in self.layers]

    def prepare_parameters(self, strategy: Strategy) -> None:
        for layer in self.layers:
            layer.add(_NAME)
            layer.active = _NAME

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for layer in self.layers:
            layer.merge(_NAME, self.merge)
