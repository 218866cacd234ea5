"""Features and ids as figures on pairs take them: checked, and of unit length in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError, NotFinite


def unit_features(image_features: torch.Tensor, text_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides checked, on the images' device, normalised in float64.

    Double precision costs little next to the encoders, tells apart what single precision features can hold, and is
    out of TF32's reach.

    :param image_features: features of the images ``[N, D]``.
    :param text_features: features of the texts ``[M, D]``, on any device.
    :return: both in float64 with unit length, zero rows as they are.
    :raises InputError: if features are empty, NaN, infinite (:class:`~avalanche_vlm.errors.NotFinite`) or of different
        widths.

    >>> unit_features(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))[0].tolist()
    [[0.6, 0.8]]
    """
    sides = []
    for side, features in (("image", image_features), ("text", text_features)):
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(
                f"the {side} features must be a matrix with a row for each {side}, but their shape is "
                f"{list(features.shape)}"
            )
        features = features.to(image_features.device, torch.float64)
        broken = ~features.isfinite().all(1)
        if broken.any():
            raise NotFinite(
                f"{int(broken.sum())} of {len(features)} {side} features are NaN or infinite, "
                f"the first in row {int(broken.int().argmax())}"
            )
        sides.append(F.normalize(features, dim=1))
    images, texts = sides
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"image features of width {images.shape[1]} and text features of width {texts.shape[1]} cannot be compared"
        )
    return images, texts


def row_ids(ids: torch.Tensor | Sequence[int] | None, features: torch.Tensor, side: str) -> torch.Tensor:
    """One id per row of the features, on their device.

    :param ids: numbers ``[N]``; None numbers the rows.
    :param features: features with a row for each id ``[N, D]``.
    :param side: what the features are of, as an error names it.
    :return: one id for each row of the features, ``[N]`` on their device.
    :raises InputError: if ids are no numbers, or not as many as rows.

    >>> row_ids(None, torch.eye(2), "image").tolist()
    [0, 1]
    """
    if ids is None:
        return torch.arange(len(features), device=features.device)
    try:
        ids = torch.as_tensor(ids, device=features.device)
    except (TypeError, ValueError) as error:
        raise InputError(f"the {side} ids must be numbers") from error
    if ids.shape != (len(features),):
        raise InputError(f"{len(features)} {side} features need as many ids in a row, got {list(ids.shape)}")
    return ids
