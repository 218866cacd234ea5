"""How big a model is that is not made yet."""

from __future__ import annotations

import logging
from functools import cache

from avalanche_vlm.models.precision import WeightPrecision

_BYTES = {"fp32": 4}
"""Of a number, by the weights' precision; two in all others."""


@cache
def weight_bytes(name: str, precision: WeightPrecision = "fp32") -> int | None:
    """Bytes of the weights that a model will have, told by its architecture alone: nothing is read or allocated.

    :param name: the model's name, as :func:`~avalanche_vlm.models.factory.create_vlm` takes it.
    :param precision: precision of the weights.
    :return: the number of bytes; None for a model whose architecture is not open_clip's own, such as a folder's.
    """
    if name == "tiny":
        from avalanche_vlm.models.tiny import WEIGHTS

        return WEIGHTS.stat().st_size
    import open_clip
    import torch

    if name not in open_clip.list_models():
        return None
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that no weights are loaded is what is asked for
    try:
        with torch.device("meta"):
            model = open_clip.create_model(name, load_weights=False, device="meta")
        return sum(weight.numel() for weight in model.parameters()) * _BYTES.get(precision, 2)
    except Exception:  # towers of other libraries fail in ways of their own, as where their configuration is far away
        return None
    finally:
        logging.disable(before)
