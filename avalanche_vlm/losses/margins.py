"""Margins between confusable classes and orthogonality of subspaces."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm._host import on_host, to_device


def confusable_pairs(text_features: torch.Tensor, old: torch.Tensor, threshold: float = 0.55) -> torch.Tensor:
    """The pairs of an old and a new class whose texts are near: RAPF's neighbours (Huang et al., arXiv 2407.14143).

    Near is a Euclidean distance between unit-length text features below the threshold, as in the authors' code; a
    distance of d is a cosine of ``1 - d^2 / 2``: 0.849 for 0.55, their CIFAR-100 setting (0.65 for ImageNet-R).

    :param text_features: ``[C, D]``, one of each class; normalised here.
    :param old: bool ``[C]``, True for the classes of earlier tasks, False for those of the current one.
    :param threshold: a distance, in (0, 2].
    :return: int64 ``[P, 2]``, the old class and the new class of each pair, in ascending order; P may be 0.
    :raises ValueError: if ``old`` does not name each class.

    >>> texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    >>> confusable_pairs(texts, torch.tensor([True, True, False]))
    tensor([[0, 2]])
    """
    if old.shape != text_features.shape[:1]:
        raise ValueError(
            f"confusable pairs need one old-or-new for each of {len(text_features)} classes, got {list(old.shape)}"
        )
    texts = F.normalize(text_features.detach(), dim=1)
    # Exact differences: the faster matrix product of cdist misses small distances in float32.
    distances = torch.cdist(texts, texts, compute_mode="donot_use_mm_for_euclid_dist")
    near = on_host(distances.lt(threshold) & old[:, None] & ~old[None, :])
    return to_device(near.nonzero(), texts.device)


def hinge_margin(similarities: torch.Tensor, y: torch.Tensor, pairs: torch.Tensor, margin: float = 0.1) -> torch.Tensor:
    """``max(0, margin - s_y + s_n)`` for every sample of an old class y and every new class n it is confused with:
    RAPF's hinge loss (Huang et al., arXiv 2407.14143).

    Samples of classes that stand first in no pair do not count. The mean is over samples and pairs that meet; the
    authors' code draws equally many pseudo-features of the old class for each pair and counts them for that pair
    alone, which is the same in expectation where every old class has as many samples.

    :param similarities: ``[B, C]`` cosines of samples (RAPF: pseudo-features of old classes) and class texts, not
        scaled: the margin is one of cosines.
    :param y: ``[B]`` class of each sample.
    :param pairs: int64 ``[P, 2]`` of :func:`confusable_pairs`: a class, and one that its samples are confused with.
    :param margin: least lead of the right class in cosine, at least 0.
    :return: scalar, at least 0; 0 with a gradient of 0 if no sample meets a pair.
    :raises ValueError: if the shapes do not fit.

    >>> hinge_margin(torch.tensor([[0.5, 0.0, 0.75]]), torch.tensor([0]), torch.tensor([[0, 2]]), margin=0.25).item()
    0.5
    """
    if y.shape != similarities.shape[:1] or pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"the hinge margin needs one class for each of {len(similarities)} samples and pairs [P, 2], "
            f"got {list(y.shape)} and {list(pairs.shape)}"
        )
    told, known = on_host(pairs), on_host(y)
    sample, pair = (known[:, None] == told[None, :, 0]).nonzero(as_tuple=True)
    right, wrong, rows = (to_device(i, similarities.device) for i in (known[sample], told[pair, 1], sample))
    own = similarities[rows, right]
    other = similarities[rows, wrong]
    return F.relu(margin - own + other).sum() / max(len(sample), 1)


def orthogonality(new: torch.Tensor, old: torch.Tensor, squared: bool = False) -> torch.Tensor:
    """The overlap of two row spaces, ``sum |new old^T|``: O-LoRA's penalty on the A matrices of the current and of
    the earlier tasks (Wang et al., arXiv 2310.14152).

    The paper sums the squares of the entries, the authors' code their absolute values. We follow the code, since the
    published weights go with it; ``squared=True`` is the paper's, and the smoother one near 0.

    :param new: the current task's rows ``[r, D]``.
    :param old: ``[R, D]``, the earlier tasks' rows under each other; R may be 0. No gradient flows into it.
    :param squared: whether to sum squares instead of absolute values.
    :return: scalar, at least 0; 0 if and only if every new row is orthogonal to every old one.
    :raises ValueError: if the widths differ.

    >>> new, old = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[-1.0, 1.0, 5.0], [0.0, 2.0, 0.0]])
    >>> orthogonality(new, old).item(), orthogonality(new, old, squared=True).item()
    (5.0, 17.0)
    """
    if new.shape[1:] != old.shape[1:] or new.dim() != 2:
        raise ValueError(f"orthogonality needs rows of one width, got {list(new.shape)} and {list(old.shape)}")
    overlap = new @ old.detach().T
    return overlap.square().sum() if squared else overlap.abs().sum()
