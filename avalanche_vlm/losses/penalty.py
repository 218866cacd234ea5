"""Quadratic penalties on weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def l2_to_anchor(parameters: Mapping[str, torch.Tensor], anchor: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Squared Euclidean distance of the parameters to an anchor: the weight constraint of ZSCL (arXiv 2303.06628,
    eq. 7).

    :param parameters: at least the anchor's names.
    :param anchor: name to tensor.
    :return: scalar.

    >>> l2_to_anchor({"w": torch.tensor([1.0, 2.0])}, {"w": torch.zeros(2)}).item()
    5.0
    """
    distances = [(parameters[name] - tensor).square().sum() for name, tensor in anchor.items()]
    return torch.stack(distances).sum()
