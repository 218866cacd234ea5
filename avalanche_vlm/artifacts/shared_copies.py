"""Copies of a model that have its numbers and not its memory, to be taken apart."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.competing import CompetingClasses
from avalanche_vlm.models.modules.site import wake_modules


def shared_copy(model: VLM) -> VLM:
    """A copy in eval mode whose parameters and buffers share the memory of the model's, and of which nothing trains.

    What is merged or taken out of the copy leaves the model as it is.

    :param model: any model, trained or not.
    """
    memo: dict[int, Any] = {id(part): part for part in (model.tokenizer, model.transforms, model.label_space)}
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo[id(model.taps)] = []
    return copy.deepcopy(model, memo).eval()


def with_one_module(model: VLM, module: str | None) -> VLM:
    """A copy that answers every image with one module of a pool, or with none of them: it chooses no more.

    :param model: any model; one that does not choose among modules is copied as it is.
    :param module: name of the module; None for the towers without modules.
    :raises InputError: if there is no such module.
    """
    check_module(model, module)
    found = shared_copy(model)
    if found.routed is not None:
        pool = found.routed.pool
        for name in list(pool.names):
            if name != module:
                pool.drop(name)
        found.routed = None
        pool.activate(module)
        wake_modules(found)  # a program takes weights that are parameters of its layers
    return found


def check_module(model: VLM, module: str | None) -> None:
    """Refuse the name of a module that a model does not have.

    :param model: any model, trained or not.
    :param module: name of the module; None for none.
    :raises InputError: if there is no such module.
    """
    names = [] if model.routed is None else model.routed.pool.names
    if module is not None and module not in names:
        there = f"it has {', '.join(names)}" if names else "it does not choose among modules"
        raise InputError(f"{model.name} has no module {module!r}; {there}")


def one_tower(model: VLM, tower: str) -> VLM:
    """A copy in which nothing is left but a tower and what is in its way, so that no more than that is written.

    :param model: a model that does not choose among modules.
    :param tower: ``"image"`` or ``"text"``.
    """
    found = shared_copy(model)
    found.auxiliary, found.class_head, found.competing = nn.ModuleDict(), None, CompetingClasses()
    if tower == "text":
        found.clip.visual = found.image_path = None
        return found
    found.text_path = None
    for name, _ in [*found.clip.named_parameters(recurse=False), *found.clip.named_children()]:
        if name != "visual":
            setattr(found.clip, name, None)
    return found
