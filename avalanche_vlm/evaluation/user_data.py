"""Whether plugins hold samples of the user's when the training is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.memory import ExemplarMemory, FeatureMemory, LatentMemory
from avalanche_vlm.models import VLM

Memory = ExemplarMemory | LatentMemory | FeatureMemory


def memories(plugins: Iterable[Any]) -> list[Memory]:
    """The memories that these plugins hold, empty ones left out."""
    return [part for part in held(plugins) if isinstance(part, Memory) and len(part)]


def may_keep_pictures(plugins: Iterable[Any]) -> bool:
    """Whether there is a memory for pictures, empty or not: what is known before training."""
    return any(isinstance(part, ExemplarMemory) for part in held(plugins))


def keeps_user_data(plugins: Iterable[Any], captions: bool, shape: tuple[int, ...]) -> bool:
    """Whether pictures or captions of the user's can be had out of what the plugins hold.

    They are in memories of pictures, in memories with tokens where the tokens are captions (on a class stream they are
    prompts), in Avalanche's data sets and in tensors of pictures. Features, statistics, reference pairs and what a
    generator drew are not the user's data, though features of a picture may tell much about it.

    :param captions: the stream's samples have captions.
    :param shape: of a picture as the model takes it.
    """

    def is_raw(part: Any) -> bool:
        if isinstance(part, ExemplarMemory):
            return len(part) > 0
        if isinstance(part, LatentMemory):
            return captions and len(part) > 0 and part.raw_text
        if isinstance(part, AvalancheDataset):
            return len(part) > 0
        return isinstance(part, (torch.Tensor, np.ndarray)) and part.ndim > 3 and tuple(part.shape[-3:]) == shape

    return any(is_raw(part) for part in held(plugins))


def held(plugins: Iterable[Any]) -> Iterator[Any]:
    """Everything that can be reached from these objects through attributes, containers and closures: those of
    plugins and of this library's and Avalanche's objects. Models and reference pairs are left out."""
    seen: set[int] = set()
    waiting = list(plugins)
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, (str, bytes, int, float, type, VLM, ReferencePairs)):
            continue
        seen.add(id(part))
        yield part
        waiting.extend(_parts(part))


def _parts(part: Any) -> Iterable[Any]:
    if isinstance(part, (torch.Tensor, np.ndarray, AvalancheDataset, Memory)):
        return ()
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, (list, tuple, set, frozenset)):
        return part
    if isinstance(part, MethodType):
        return (part.__self__, part.__func__)
    if isinstance(part, FunctionType):
        return [cell.cell_contents for cell in part.__closure__ or () if _filled(cell)]
    if isinstance(part, SupervisedPlugin) or type(part).__module__.partition(".")[0] in ("avalanche", "avalanche_vlm"):
        slots = [getattr(part, name, None) for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
        return [*vars(part).values(), *slots] if hasattr(part, "__dict__") else slots
    return ()


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
