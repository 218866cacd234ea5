"""Features and ids as figures on pairs take them: checked, and of unit length in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from avalanche_vlm._host import on_host
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
    images, texts, broken = unit_sides(image_features, text_features)
    refuse_broken_rows(broken.tolist(), len(images), len(texts))
    return images, texts


def unit_sides(
    image_features: torch.Tensor, text_features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, of which the device is not waited for: what is broken goes to :func:`refuse_broken_rows` with the
    figures, when those are on the host.

    :param image_features: features of the images ``[N, D]``.
    :param text_features: features of the texts ``[M, D]``, on any device.
    :return: both in float64 with unit length, and how many rows of each side are NaN or infinite and which is the first
        of them, float64 ``[4]``.
    :raises InputError: if features are empty or of different widths.
    """
    sides, found = [], []
    for side, features in (("image", image_features), ("text", text_features)):
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(
                f"the {side} features must be a matrix with a row for each {side}, but their shape is "
                f"{list(features.shape)}"
            )
        features = features.to(image_features.device, torch.float64)
        broken = ~features.isfinite().all(1)
        found += [broken.sum(), broken.int().argmax()]
        sides.append(F.normalize(features, dim=1))
    images, texts = sides
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"image features of width {images.shape[1]} and text features of width {texts.shape[1]} cannot be compared"
        )
    return images, texts, torch.stack(found).double()


def refuse_broken_rows(broken: Sequence[float], images: int, texts: int) -> None:
    """Refuse features of which some are no numbers.

    :param broken: rows of either side that are, and the first of them, as :func:`unit_sides` counts them.
    :param images: number of image features.
    :param texts: number of text features.
    :raises NotFinite: for the first side of which a row is.
    """
    for side, there, at in (("image", images, 0), ("text", texts, 2)):
        count, first = broken[at : at + 2]
        if count:
            raise NotFinite(
                f"{int(count)} of {there} {side} features are NaN or infinite, the first in row {int(first)}"
            )


def figures_on_host(
    figures: Mapping[str, torch.Tensor], broken: torch.Tensor, images: int, texts: int
) -> dict[str, float]:
    """Figures of features as numbers, for all of which a device is waited for once.

    :param figures: numbers by their names, float64.
    :param broken: rows of either side that are no numbers, and the first of them, as :func:`unit_sides` counts them.
    :param images: number of image features.
    :param texts: number of text features.
    :raises NotFinite: if there are such rows.
    """
    found = torch.cat([broken, torch.stack(list(figures.values()))]).tolist()
    refuse_broken_rows(found[: len(broken)], images, texts)
    return dict(zip(figures, found[len(broken) :], strict=True))


@contextmanager
def broken_rows_first(broken: torch.Tensor, images: int, texts: int) -> Iterator[None]:
    """Where anything else is refused, refuse features of which some are no numbers in its place.

    :param broken: rows of either side that are, and the first of them, as :func:`unit_sides` counts them.
    :param images: number of image features.
    :param texts: number of text features.
    """
    try:
        yield
    except InputError:
        refuse_broken_rows(broken.tolist(), images, texts)
        raise


def row_ids(ids: torch.Tensor | Sequence[int] | None, features: torch.Tensor, side: str) -> torch.Tensor:
    """One id per row of the features, on the host, which finds out by itself what is equal.

    :param ids: numbers ``[N]``; None numbers the rows.
    :param features: features with a row for each id ``[N, D]``.
    :param side: what the features are of, as an error names it.
    :return: one id for each row of the features, ``[N]`` on the CPU.
    :raises InputError: if ids are no numbers, or not as many as rows.

    >>> row_ids(None, torch.eye(2), "image").tolist()
    [0, 1]
    """
    if ids is None:
        return torch.arange(len(features), device="cpu")
    try:
        ids = on_host(ids if isinstance(ids, torch.Tensor) else torch.as_tensor(ids, device="cpu"))
    except (TypeError, ValueError) as error:
        raise InputError(f"the {side} ids must be numbers") from error
    if ids.shape != (len(features),):
        raise InputError(f"{len(features)} {side} features need as many ids in a row, got {list(ids.shape)}")
    return ids
