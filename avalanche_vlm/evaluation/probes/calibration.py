"""Whether a model is as often right as it says, as a pure function. This module imports torch alone."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError


@torch.no_grad()
def expected_calibration_error(confidence: torch.Tensor, right: torch.Tensor, bins: int = 15) -> float:
    """``sum_m |B_m| / N |acc(B_m) - conf(B_m)|`` over bins of equal width ``((m - 1) / M, m / M]`` (Guo et al., arXiv
    1706.04599, eq. 3; 15 bins as there).

    :param confidence: probability of the predicted class ``[N]``, in [0, 1].
    :param right: how right the predicted class is ``[N]``, in [0, 1] or bool; a fraction where several classes tie.
    :param bins: number of bins M, at least 1.
    :return: calibration error in [0, 1].
    :raises InputError: if there are no samples, numbers do not fit, or a confidence is no probability.

    >>> expected_calibration_error(torch.tensor([0.75, 0.75, 1.0, 1.0]), torch.tensor([True, False, True, True]))
    0.125
    """
    if bins < 1 or confidence.ndim != 1 or confidence.shape != right.shape or len(right) == 0:
        raise InputError(
            f"a calibration error needs one or more bins and as many confidences as answers, got {bins}, "
            f"{list(confidence.shape)} and {list(right.shape)}"
        )
    confidence = confidence.double()
    # Rounding takes a softmax over 1 by a hair.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise InputError("confidences are probabilities in [0, 1]")
    of_bin = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    # |B| |acc - conf| is the sum of the bin's differences.
    differences = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    differences.index_add_(0, of_bin, right.double() - confidence)
    return (differences.abs().sum() / len(right)).item()
