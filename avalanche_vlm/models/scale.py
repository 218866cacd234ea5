"""CLIP's logit scale stays at most 100 while it trains, in whatever loop it trains."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

LARGEST = math.log(100)
"""Of CLIP's parameter (arXiv 2103.00020, section 2.5)."""

_models: WeakSet[Any] = WeakSet()


def keep_scale_low(model: nn.Module) -> None:
    """After every step of an optimizer that holds a CLIP's ``logit_scale``, clamp the parameter to [0, ln 100], as
    open_clip's training does.

    The forward pass takes the parameter as it is, so logits, losses and gradients are open_clip's. SigLIP, which has a
    ``logit_bias`` and stands above 100 as published (arXiv 2303.15343), is left alone; so is a scale that is frozen.

    :param model: model with open_clip's model as ``clip``; copies of it have to be named too.
    """
    _models.add(model)


@torch.no_grad()
def _clamp(optimizer: Optimizer, *_: Any) -> None:
    for model in list(_models):
        scale = getattr(model.clip, "logit_scale", None)  # another's model that is being taken apart stops no training
        if scale is not None and model.bias is None and scale.requires_grad and _holds(optimizer, scale):
            scale.clamp_(0, LARGEST)


def _holds(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    return any(held is parameter for group in optimizer.param_groups for held in group["params"])


register_optimizer_step_post_hook(_clamp)
