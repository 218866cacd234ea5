"""The plane in which features vary most."""

from __future__ import annotations

import torch


def principal_plane(rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Rows on their two principal components, which are the same for all of them.

    :param rows: features ``[N, D]``, N of 1 or more.
    :return: their places ``[N, 2]`` in float64, and the share of the variance that the two components have; it is 1 of
        rows that are all equal. Of each component the entry of the largest magnitude is above 0, so that the same
        features give the same map.

    >>> places, share = principal_plane(torch.tensor([[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 4.0, 1.0]]))
    >>> places.shape, round(share, 6)
    (torch.Size([3, 2]), 1.0)
    """
    centred = rows.double() - rows.double().mean(0)
    _, scales, components = torch.linalg.svd(centred, full_matrices=False)
    plane = components[:2]
    largest = plane.gather(1, plane.abs().argmax(1, keepdim=True))
    plane = plane * torch.where(largest < 0, -1.0, 1.0)
    variance = scales.square()
    whole = float(variance.sum())
    places = centred @ plane.T
    if places.shape[1] < 2:  # of one row, or one dimension
        places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    return places, min(1.0, float(variance[:2].sum()) / whole) if whole > 0 else 1.0
