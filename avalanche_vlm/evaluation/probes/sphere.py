"""How features lie on the sphere, as pure functions. This module imports torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError


@torch.no_grad()
def alignment(images: torch.Tensor, texts: torch.Tensor, alpha: float = 2.0) -> float:
    """Mean distance of a pair's two features, to the power ``alpha`` (Wang and Isola, arXiv 2005.10242, section 4.1).

    With the default it is ``2 - 2 paired_cosine``.

    :param images: features of images ``[N, D]``; normalised here.
    :param texts: features of texts ``[N, D]``, row n that of image n's text; normalised here.
    :param alpha: power of the distance, positive.
    :return: mean in [0, 2^alpha]; 0 if every pair coincides.
    :raises InputError: if they do not pair up.

    >>> round(alignment(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])), 6)
    1.0
    """
    if images.shape != texts.shape or images.ndim != 2 or len(images) == 0:
        raise InputError(f"alignment is of pairs [N, D], got {list(images.shape)} and {list(texts.shape)}")
    apart = F.normalize(images.double(), dim=1) - F.normalize(texts.double(), dim=1)
    return apart.norm(dim=1).pow(alpha).mean().item()


@torch.no_grad()
def uniformity(features: torch.Tensor, t: float = 2.0) -> float:
    """``log mean exp(-t ||x_i - x_j||^2)`` over all pairs of different samples (Wang and Isola, arXiv 2005.10242,
    section 4.1): the lower, the more evenly the features are spread.

    :param features: features ``[N, D]``; normalised here. Equal samples should be there once.
    :param t: sharpness of the kernel, positive.
    :return: logarithm in [-4 t, 0]; 0 if all features coincide.
    :raises InputError: for fewer than two samples.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), 6)
    -4.0
    """
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"uniformity needs the features [N, D] of two or more samples, got {list(features.shape)}")
    squared = torch.pdist(F.normalize(features.double(), dim=1)).square()
    return squared.mul(-t).exp().mean().log().item()
