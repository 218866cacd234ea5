"""Published methods as short compositions of parts.

``build("zscl", model=model, reference=pairs)`` gives a list of plugins for any Avalanche strategy; ``defaults("zscl")``
the optimizer settings that the method wants.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.models.routers import PrototypeRouter
from avalanche_vlm.training.plugins import (
    AnchorPenaltyPlugin,
    ExemplarReplayPlugin,
    LoRAPerTaskPlugin,
    ReferenceDistillationPlugin,
    RunningMeanPlugin,
)

Plugins = list[SupervisedPlugin]


@dataclass(frozen=True)
class Recipe:
    """A named composition.

    :param name: as users write it.
    :param family: of the survey's paradigms: ``none``, ``MMRE``, ``CREG``, ``PEA``, ``fusion``.
    :param compose: ``(model, *, ...) -> plugins``.
    """

    name: str
    family: str
    compose: Callable[..., Plugins]

    @property
    def settings(self) -> dict[str, Any]:
        """The options and their defaults."""
        return {
            p.name: p.default
            for p in inspect.signature(self.compose).parameters.values()
            if p.name not in ("model", "reference")
        }

    @property
    def needs_reference(self) -> bool:
        """Whether the method distils on a reference set."""
        return "reference" in inspect.signature(self.compose).parameters


RECIPES: dict[str, Recipe] = {}


def recipe(name: str, family: str) -> Callable[[Callable[..., Plugins]], Callable[..., Plugins]]:
    """Register a composition."""

    def register(compose: Callable[..., Plugins]) -> Callable[..., Plugins]:
        RECIPES[name] = Recipe(name, family, compose)
        return compose

    return register


def get(name: str) -> Recipe:
    """The recipe of that name.

    :raises InputError: if there is none.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def build(name: str, *, model: VLM, reference: ReferencePairs | None = None, **settings: Any) -> Plugins:
    """The plugins of a recipe.

    :param name: one of :data:`RECIPES`.
    :param model: the model that will be trained; some recipes adapt it in place.
    :param reference: pairs to distil on, for the recipes that need them.
    :param settings: override the recipe's defaults.
    :raises InputError: for an unknown recipe or option, or a missing reference set.
    """
    chosen = get(name)
    unknown = set(settings) - set(chosen.settings)
    if unknown:
        options = ", ".join(chosen.settings) or "none"
        raise InputError(f"recipe {name} has no option {sorted(unknown)[0]!r}; it has {options}")
    if chosen.needs_reference:
        if reference is None:
            raise InputError(f"recipe {name} distils on reference pairs: give it reference=ReferencePairs(...)")
        settings["reference"] = reference
    return chosen.compose(model, **settings)


@recipe("fine-tune", family="none")
def fine_tune(model: VLM) -> Plugins:
    """Cross-entropy (or the contrastive loss on pairs) and nothing else: the lower bound of every comparison.

    Published settings (ZSCL's code, ViT-B/16 on MTIL): AdamW without weight decay, 1000 iterations of 64 per task,
    cosine from 1e-5 after 100 iterations of warm-up, label smoothing 0.2.
    """
    return []


@recipe("replay", family="MMRE")
def replay(
    model: VLM, *, max_bytes: int = 1 << 20, policy: str = "class-balanced", batch_size: int = 64, seed: int = 0
) -> Plugins:
    """Experience replay of exemplars that are copied out of the stream (iCaRL's memory, arXiv 1611.07725, with the
    plain task loss on them).

    :param max_bytes: budget of the whole memory.
    :param policy: ``"class-balanced"`` or ``"reservoir"``.
    :param batch_size: replayed samples per iteration.
    :param seed: of the choice.
    """
    return [ExemplarReplayPlugin(model, ExemplarMemory(max_bytes, policy, seed), batch_size)]


@recipe("zscl", family="CREG")
def zscl(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: int = 64,
    weight: float = 1.0,
    temperature: float = 2.0,
    l2: float = 1.0,
    interval: int = 100,
    seed: int = 0,
) -> Plugins:
    """ZSCL: distillation on a reference set, L2 to the start of the task, running-mean weights (Zheng et al., arXiv
    2303.06628).

    Defaults are the authors' code on MTIL, where the paper's text and the code agree; their class-incremental variant
    takes ``weight=5, interval=10``. The teacher is the initial model and its text features stand on both sides.

    :param reference: pairs.
    :param batch_size: reference images per iteration.
    :param weight: of the distillation.
    :param temperature: of the distillation.
    :param l2: weight of the penalty.
    :param interval: iterations between snapshots of the running mean.
    :param seed: of the reference batches.
    """
    return [
        ReferenceDistillationPlugin(
            model, reference, batch_size=batch_size, weight=weight, temperature=temperature, seed=seed
        ),
        AnchorPenaltyPlugin(l2),
        RunningMeanPlugin(interval),
    ]


@recipe("lora", family="PEA")
def lora(
    model: VLM, *, rank: int = 8, alpha: float | None = None, quantile: float = 0.95, shrinkage: float = 0.1
) -> Plugins:
    """One LoRA per task on a frozen image tower (Hu et al., arXiv 2106.09685), chosen by a prototype router, so that
    no task id is needed; what belongs to no task is left to the pretrained model.

    :param rank: of every module.
    :param alpha: scale times rank; the rank by default.
    :param quantile: share of a task's own samples that its border lets in.
    :param shrinkage: of the router's covariance.
    """
    return [LoRAPerTaskPlugin(model, rank=rank, alpha=alpha, router=PrototypeRouter(quantile, shrinkage))]
