"""Image-text retrieval and alignment as pure functions on features. This module imports torch and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError


@torch.no_grad()
def retrieval_metrics(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    image_ids: torch.Tensor | Sequence[int] | None = None,
    text_ids: torch.Tensor | Sequence[int] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """Retrieval by cosine similarity, both directions; items with the id of the query are the relevant ones.

    - ``hit@K``: share of queries with a relevant item among the K best. What CLIP (arXiv 2103.00020) and most papers
      on image-text retrieval report under the name of recall.
    - ``recall@K``: mean over queries of (relevant items among the K best) / (relevant items). At most ``hit@K``, and
      below 1 wherever a query has more than K relevant items.

    A query without any relevant item cannot be answered and is left out; if none is left, the values are NaN.

    Ties count against the model: an irrelevant item ranks before a relevant one with the same score, so constant
    features find nothing instead of everything. Relevant items with the same score take ranks of their own.

    Memory is a few matrices ``[chunk, M]`` (and ``[chunk, N]``) of float64, never ``[N, M]``; the result does not
    depend on ``chunk``.

    :param image_features: ``[N, D]``, features of the images, L2-normalised (they are normalised again: half precision
        is not exact).
    :param text_features: ``[M, D]``, features of the texts, normalised here too; moved to the images' device if
        needed.
    :param image_ids: ``[N]``, numbers in any order, repeated or not; 0..N-1 by default.
    :param text_ids: ``[M]``, numbers; 0..M-1 by default. For several captions per image it is enough to give, here,
        each caption's image.
    :param ks: values of K, one or more; a K above the number of items takes all of them.
    :param chunk: number of queries that are scored at a time.
    :return: ``image_to_text_hit@K``, ``image_to_text_recall@K``, ``text_to_image_hit@K`` and ``text_to_image_recall@K``
        for each K, in [0, 1].
    :raises InputError: if features are empty, NaN, infinite or of different widths, ids do not fit them, N differs
        from M without ids, or ``ks`` or ``chunk`` is not positive.

    >>> images = torch.eye(2)
    >>> texts = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])  # two captions of image 0, then one of image 1
    >>> for name, value in retrieval_metrics(images, texts, text_ids=[0, 0, 1], ks=(1, 2)).items():
    ...     print(name, round(value, 3))
    image_to_text_hit@1 0.5
    image_to_text_recall@1 0.25
    image_to_text_hit@2 1.0
    image_to_text_recall@2 0.75
    text_to_image_hit@1 0.333
    text_to_image_recall@1 0.333
    text_to_image_hit@2 1.0
    text_to_image_recall@2 1.0
    """
    ks = tuple(ks)
    if not ks or any(k != int(k) or k < 1 for k in ks):
        raise InputError(f"the K of retrieval metrics must be whole numbers from 1 on, not {list(ks)}")
    if chunk < 1:
        raise InputError(f"retrieval metrics need a chunk of at least 1 query, not {chunk}")
    images, texts = _unit_features(image_features, text_features)
    if image_ids is None and text_ids is None and len(images) != len(texts):
        raise InputError(
            f"{len(images)} image features and {len(texts)} text features do not pair up: give image_ids or text_ids"
        )
    image_ids = _ids(image_ids, images, "image")
    text_ids = _ids(text_ids, texts, "text")
    return {
        **_one_direction("image_to_text", images, texts, image_ids, text_ids, ks, chunk),
        **_one_direction("text_to_image", texts, images, text_ids, image_ids, ks, chunk),
    }


@torch.no_grad()
def modality_gap(image_features: torch.Tensor, text_features: torch.Tensor) -> float:
    """Distance between the mean image feature and the mean text feature (Liang et al., arXiv 2203.02053).

    The images and texts need not be pairs, nor be equally many.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[M, D]``, features of the texts; normalised here.
    :return: distance in [0, 2]; 0 if both modalities have the same centre.
    :raises InputError: if features are empty, NaN, infinite or of different widths.

    >>> modality_gap(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    1.0
    """
    images, texts = _unit_features(image_features, text_features)
    return (images.mean(0) - texts.mean(0)).norm().item()


@torch.no_grad()
def paired_cosine(image_features: torch.Tensor, text_features: torch.Tensor) -> float:
    """Mean cosine similarity between an image and its own text: falls when the modalities drift apart.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[N, D]``, features of the texts, row n that of image n's text.
    :return: mean cosine in [-1, 1].
    :raises InputError: if features are empty, NaN, infinite or of different shapes.

    >>> paired_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    images, texts = _unit_features(image_features, text_features)
    if len(images) != len(texts):
        raise InputError(f"{len(images)} image features and {len(texts)} text features do not pair up")
    return (images * texts).sum(1).mean().item()


@torch.no_grad()
def first_hits(
    image_features: torch.Tensor, text_features: torch.Tensor, ids: torch.Tensor | Sequence[int], chunk: int = 1024
) -> torch.Tensor:
    """Which pair finds a match first: hit@1 of :func:`retrieval_metrics` by query, for intervals and paired tests.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[N, D]``, features of the texts, row n that of image n's text.
    :param ids: ``[N]``, numbers; pairs with equal ones match.
    :return: bool ``[2, N]``: images to texts, texts to images. On the CPU.
    :raises InputError: for what :func:`retrieval_metrics` refuses.

    >>> first_hits(torch.eye(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]), [0, 1]).tolist()
    [[True, True], [True, False]]
    """
    images, texts = _unit_features(image_features, text_features)
    image_ids, text_ids = _ids(ids, images, "image"), _ids(ids, texts, "text")
    ways = ((images, texts, image_ids, text_ids), (texts, images, text_ids, image_ids))
    return torch.stack([_found(*way, (1,), chunk)[0][:, 0] > 0 for way in ways]).cpu()


def mean_hit_at_1(image_features: torch.Tensor, text_features: torch.Tensor, ids: torch.Tensor) -> float:
    """The mean of both directions' hit@1 of :func:`retrieval_metrics`, in [0, 1].

    :param image_features: features of the images ``[N, D]``; normalised here.
    :param text_features: features of their texts ``[N, D]``, row n the text of image n; normalised here.
    :param ids: numbers ``[N]``; equal ones match.

    >>> mean_hit_at_1(torch.eye(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([0, 1]))
    0.75
    """
    scores = retrieval_metrics(image_features, text_features, ids, ids, ks=(1,))
    return (scores["image_to_text_hit@1"] + scores["text_to_image_hit@1"]) / 2


def _one_direction(
    name: str,
    queries: torch.Tensor,
    items: torch.Tensor,
    query_ids: torch.Tensor,
    item_ids: torch.Tensor,
    ks: tuple[int, ...],
    chunk: int,
) -> dict[str, float]:
    """hit@K and recall@K of one direction."""
    found, total = _found(queries, items, query_ids, item_ids, ks, chunk)
    # One mean over all queries rather than sums per chunk, so that rounding does not depend on the chunk either.
    found, total = found[total > 0].double(), total[total > 0].double()
    metrics = {}
    for column, k in enumerate(ks):
        metrics[f"{name}_hit@{k}"] = (found[:, column] > 0).double().mean().item()
        metrics[f"{name}_recall@{k}"] = (found[:, column] / total).mean().item()
    return metrics


def _found(
    queries: torch.Tensor,
    items: torch.Tensor,
    query_ids: torch.Tensor,
    item_ids: torch.Tensor,
    ks: tuple[int, ...],
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevant items of each query among its K best ``[queries, ks]``, and all that it has ``[queries]``, by counting
    the ranks of the best relevant items.

    The n-th best relevant item (from 0) has rank n + (irrelevant items that score no less). Only the best max(ks) can
    be among the K best, so no more are counted, and nothing but the relevant scores is sorted.
    """
    # Equal features need not give equal scores to the last bit: matrix products sum in an order that depends on the
    # position and on the chunk. Scores of unit vectors within their rounding error, D * eps, are therefore ties.
    tie = queries.shape[1] * torch.finfo(queries.dtype).eps
    found, total = [], []
    for q, q_ids in zip(queries.split(chunk), query_ids.split(chunk), strict=True):
        relevant = q_ids[:, None] == item_ids[None, :]
        count = relevant.sum(1)
        depth = min(max(ks), int(count.max()))
        scores = q @ items.T
        best = scores.masked_fill(~relevant, -torch.inf).topk(depth, dim=1).values
        scores.masked_fill_(relevant, -torch.inf)
        hits = torch.zeros(len(q), len(ks), dtype=torch.long, device=q.device)
        for n in range(depth):
            rank = n + (scores >= best[:, n : n + 1] - tie).sum(1)
            for column, k in enumerate(ks):
                hits[:, column] += (rank < k) & (n < count)
        found.append(hits)
        total.append(count)
    return torch.cat(found), torch.cat(total)


def _unit_features(image_features: torch.Tensor, text_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides checked, on the images' device, normalised in float64.

    Double precision costs little next to the encoders, tells apart what single precision features can hold, and is
    out of TF32's reach.
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
            raise InputError(
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


def _ids(ids: torch.Tensor | Sequence[int] | None, features: torch.Tensor, side: str) -> torch.Tensor:
    """One id per row of the features, on their device."""
    if ids is None:
        return torch.arange(len(features), device=features.device)
    try:
        ids = torch.as_tensor(ids, device=features.device)
    except (TypeError, ValueError) as error:
        raise InputError(f"the {side} ids must be numbers") from error
    if ids.shape != (len(features),):
        raise InputError(f"{len(features)} {side} features need as many ids in a row, got {list(ids.shape)}")
    return ids
