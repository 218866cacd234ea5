"""How a model was made, so that it can be made again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avalanche_vlm.models.folders import HUB, LOCAL
from avalanche_vlm.models.precision import WeightPrecision

RANDOM = "random"
"""What weights are called that are drawn."""


@dataclass(frozen=True)
class Origin:
    """What :func:`~avalanche_vlm.models.create_vlm` was asked for, and what it built.

    :param name: the model's name; of a folder its whole path.
    :param pretrained: a tag, the whole path of a checkpoint, ``"random"``, or None for the weights that belong to the
        name.
    :param precision: the numbers that the weights are in.
    :param image_size: side of the input in pixels; None for the architecture's own.
    :param seed: seed of random weights that are drawn first of all after seeding, so that they can be drawn again; None
        for weights that are not random, or that other draws came before.
    :param frozen: the towers that were frozen from the start.
    :param config: what open_clip calls ``open_clip_config.json``: ``model_cfg``, the architecture, and
        ``preprocess_cfg``, how its images are prepared.
    """

    name: str
    pretrained: str | None
    precision: WeightPrecision
    image_size: int | None
    seed: int | None
    frozen: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn."""
        return self.pretrained == RANDOM

    def __str__(self) -> str:
        return self.name if self.pretrained is None else f"{self.name} ({self.pretrained})"


def origin_of(
    name: str,
    pretrained: str | Path | None,
    precision: WeightPrecision,
    image_size: int | None,
    frozen: Sequence[str],
    config: Mapping[str, Any],
) -> Origin:
    """The origin of a model, with whole paths in the place of relative ones. Links on the way are followed:
    ``DIR/model`` of a saved model points elsewhere after an update, and the base is the version that it was.

    :param name: the model's name as it was given.
    :param pretrained: what was given as its weights.
    :param precision: the numbers that the weights are in.
    :param image_size: side of the input in pixels; None for the architecture's own.
    :param frozen: the towers that were frozen from the start.
    :param config: what :func:`open_clip_config` says of it.
    """
    if name.startswith(LOCAL):
        name = LOCAL + str(Path(name.removeprefix(LOCAL)).resolve())
    weights = None if pretrained is None else str(pretrained)
    if weights is None and name != "tiny" and not name.startswith((LOCAL, HUB)):
        weights = RANDOM
    elif weights not in (None, RANDOM) and not _is_tag(name, str(weights)):
        file = Path(str(weights)).absolute()
        weights = str(file.parent.resolve() / file.name)  # a download's own name is a link to one without an ending
    return Origin(name, weights, precision, image_size, None, tuple(frozen), config)


def _is_tag(name: str, weights: str) -> bool:
    from open_clip import list_pretrained_tags_by_model

    return name != "tiny" and weights in list_pretrained_tags_by_model(name)


def fresh_seed() -> int | None:
    """The seed of torch's generator on the CPU if nothing was drawn from it yet, else None."""
    seed = torch.initial_seed()
    untouched = torch.Generator().manual_seed(seed)
    return seed if torch.equal(untouched.get_state(), torch.get_rng_state()) else None


def open_clip_config(
    clip: nn.Module, architecture: Mapping[str, Any], quick_gelu: bool, image_size: int | None
) -> dict[str, Any]:
    """What ``open_clip_config.json`` of a model's folder holds.

    :param clip: the model that open_clip has built.
    :param architecture: the configuration that it was built from.
    :param quick_gelu: whether it was given QuickGELU, whatever the configuration says.
    :param image_size: side of the input in pixels that it was given; None for the configuration's.
    :return: plain JSON types, from which open_clip builds the same architecture and the same transforms.
    """
    from open_clip import get_model_preprocess_cfg

    model = copy.deepcopy(dict(architecture))
    if quick_gelu:
        model["quick_gelu"] = True
    if image_size is not None:
        model["vision_cfg"]["image_size"] = image_size
    # Tuples become lists, and what is no JSON (a callable) would be found here and not in a reader's hands.
    return json.loads(json.dumps({"model_cfg": model, "preprocess_cfg": get_model_preprocess_cfg(clip)}))
