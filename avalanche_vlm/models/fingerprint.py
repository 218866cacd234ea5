"""What a model is before it is trained, by content."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

from avalanche_vlm._content import digest
from avalanche_vlm.memory.settings import tensor_content
from avalanche_vlm.models.encoder import TOWERS
from avalanche_vlm.models.feature_cache import layer_settings
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.vlm import VLM


def weights_of(model: VLM) -> dict[str, Any]:
    """Everything about a model's weights that decides figures.

    :param model: the model as it is before a recipe is built on it.
    :return: plain JSON types: a digest of every parameter and buffer by its name, one of the layers with their settings
        (the same weights behind another activation are another model), precisions, the frozen towers, a digest of the
        weights that train or rest unlike their tower if there are such, and for random weights the seed that they were
        drawn with.
    """
    # What competes belongs to the label space that the model was last given, and is no part of what it knows.
    known = chain(named_weights(model), model.named_buffers())
    tensors = sorted((name, tensor) for name, tensor in known if not name.startswith("competing."))
    drawn = {} if model.weights_seed is None else {"seed": model.weights_seed}
    unlike = [
        name
        for tower in TOWERS
        for name, parameter in model.tower_parameters(tower)
        if parameter.requires_grad == (tower in model.frozen)
    ]
    return {
        **drawn,
        "content": digest(part for name, tensor in tensors for part in (name, tensor_content(tensor))),
        "layers": digest(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(layer)) for layer in layer_settings(model.clip)),
        "precision": sorted({str(tensor.dtype).removeprefix("torch.") for _, tensor in model.named_parameters()}),
        "frozen": list(model.frozen),
        **({"unlike_towers": digest(unlike)} if unlike else {}),
    }
