"""Image-text retrieval as pure functions on features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.alignment import gap_and_cosine
from avalanche_vlm.evaluation.relation import Relation, of_pairs
from avalanche_vlm.evaluation.unit_features import (
    broken_rows_first,
    figures_on_host,
    row_ids,
    unit_features,
    unit_sides,
)


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

    Ties are counted by expectation over all orders of items with the same score, so they decide neither for nor against
    the model: constant features find what guessing finds, K of M items.

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
    ks = _checked(ks, chunk)
    images, texts, broken = unit_sides(image_features, text_features)
    with broken_rows_first(broken, len(images), len(texts)):
        if image_ids is None and text_ids is None and len(images) != len(texts):
            raise InputError(
                f"{len(images)} image features and {len(texts)} text features do not pair up: give image_ids or "
                "text_ids"
            )
        image_ids, text_ids = row_ids(image_ids, images, "image"), row_ids(text_ids, texts, "text")
    figures = _both_ways(images, texts, Relation.of_equal(image_ids, text_ids), None, ks, chunk)
    return figures_on_host(figures, broken, len(images), len(texts))


@torch.no_grad()
def pair_retrieval(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    ids: torch.Tensor | Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """Retrieval among pairs, of which one image may have several captions and one caption several images.

    As in Karpathy's splits and CLIP_benchmark, an image counts once however many captions it has, and an image's query
    is answered by any of its captions. A caption's query is answered by any image that has this caption. All else is
    as in :func:`retrieval_metrics`.

    :param image_features: features of the images ``[N, D]``; of an image that comes several times the first row is
        taken.
    :param text_features: features of the captions ``[N, D]``, row n the caption of image n.
    :param ids: identities of the pairs ``[N]`` (:mod:`~avalanche_vlm.losses.identity`); plain numbers are those of
        captions.
    :param ks: values of K, one or more; a K above the number of items takes all of them.
    :param chunk: number of queries that are scored at a time.
    :return: figures by the names of :func:`retrieval_metrics`, in [0, 1].
    :raises InputError: for what :func:`retrieval_metrics` refuses.

    >>> images = torch.eye(2)[[0, 0, 1]]  # image 1 has two captions, and any of them will do
    >>> captions = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> found = pair_retrieval(images, captions, [1 << 32 | 0, 1 << 32 | 1, 2 << 32 | 2], ks=(1,))
    >>> found["image_to_text_hit@1"], found["text_to_image_hit@1"]
    (1.0, 1.0)
    """
    return _pair_figures(image_features, text_features, ids, ks, chunk)


@torch.no_grad()
def retrieval_and_alignment(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    ids: torch.Tensor | Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """:func:`pair_retrieval`, and how far apart images and texts lie
    (:func:`~avalanche_vlm.evaluation.alignment.gap_and_cosine`), for all of which a device is waited for once.

    :param image_features: features of the images ``[N, D]``; normalised here.
    :param text_features: features of their texts ``[N, D]``, row n the text of image n.
    :param ids: identities of the pairs ``[N]``.
    :param ks: values of K, one or more.
    :param chunk: number of queries that are scored at a time.
    :return: the figures of both by their names.
    :raises InputError: for what :func:`retrieval_metrics` refuses.

    >>> found = retrieval_and_alignment(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0, 1], ks=(1,))
    >>> found["text_to_image_hit@1"], found["paired cosine"]
    (0.5, 0.5)
    """
    return _pair_figures(image_features, text_features, ids, ks, chunk, gap_and_cosine)


@torch.no_grad()
def first_hits(
    image_features: torch.Tensor, text_features: torch.Tensor, ids: torch.Tensor | Sequence[int], chunk: int = 1024
) -> torch.Tensor:
    """Which pair finds a match first: hit@1 of :func:`pair_retrieval` by query, for intervals and paired tests.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[N, D]``, features of the texts, row n that of image n's text.
    :param ids: ``[N]``, identities of the pairs.
    :param chunk: number of queries that are scored at a time.
    :return: float64 ``[2, N]`` on the CPU, images to texts and texts to images; 0 or 1, between them where scores tie.
        The value of an image with c rows is shared out over them, so that the mean over rows is hit@1: each has
        N / (c images) times the value.
    :raises InputError: for what :func:`retrieval_metrics` refuses.

    >>> first_hits(torch.eye(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]), [0, 1]).tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    images, texts = unit_features(image_features, text_features)
    relation, first, unit = of_pairs(images, texts, ids)
    queries = images[to_device(first, images.device)]
    to_texts, to_images = (
        _expected(*of, (1,), chunk)[0][:, 0].cpu()
        for of in ((queries, texts, relation), (texts, queries, relation.turned()))
    )
    of_row = to_texts[unit] * len(unit) / (len(first) * torch.bincount(unit)[unit])
    return torch.stack([of_row, to_images]).nan_to_num(0.0)


def mean_hit_at_1(image_features: torch.Tensor, text_features: torch.Tensor, ids: torch.Tensor) -> float:
    """The mean of both directions' hit@1 of :func:`pair_retrieval`, in [0, 1].

    :param image_features: features of the images ``[N, D]``; normalised here.
    :param text_features: features of their texts ``[N, D]``, row n the text of image n.
    :param ids: identities of the pairs ``[N]``.

    >>> mean_hit_at_1(torch.eye(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([0, 1]))
    0.75
    """
    scores = pair_retrieval(image_features, text_features, ids, ks=(1,))
    return (scores["image_to_text_hit@1"] + scores["text_to_image_hit@1"]) / 2


def _checked(ks: Sequence[int], chunk: int) -> tuple[int, ...]:
    ks = tuple(ks)
    if not ks or any(k != int(k) or k < 1 for k in ks):
        raise InputError(f"the K of retrieval metrics must be whole numbers from 1 on, not {list(ks)}")
    if chunk < 1:
        raise InputError(f"retrieval metrics need a chunk of at least 1 query, not {chunk}")
    return ks


def _pair_figures(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    ids: torch.Tensor | Sequence[int],
    ks: Sequence[int],
    chunk: int,
    *more: Callable[[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]],
) -> dict[str, float]:
    """The metrics of pairs, and what more there is to say of their features of unit length."""
    ks = _checked(ks, chunk)
    images, texts, broken = unit_sides(image_features, text_features)
    with broken_rows_first(broken, len(images), len(texts)):
        relation, first, _ = of_pairs(images, texts, ids)
    figures = _both_ways(images, texts, relation, first, ks, chunk)
    for of_features in more:
        figures |= of_features(images, texts)
    return figures_on_host(figures, broken, len(images), len(texts))


def _both_ways(
    images: torch.Tensor,
    texts: torch.Tensor,
    relation: Relation,
    first: torch.Tensor | None,
    ks: tuple[int, ...],
    chunk: int,
) -> dict[str, torch.Tensor]:
    """The metrics of the images of some rows, None for all; no device is waited for."""
    queried = images if first is None else images[to_device(first, images.device)]
    ways = {"image_to_text": (queried, texts, relation), "text_to_image": (texts, queried, relation.turned())}
    means = {}
    for way, (queries, items, related) in ways.items():
        # One mean over all queries rather than sums per chunk, so that rounding does not depend on the chunk either.
        hit, recall = _expected(queries, items, related, ks, chunk)
        for column, k in enumerate(ks):
            means[f"{way}_hit@{k}"] = hit[:, column].nanmean()
            means[f"{way}_recall@{k}"] = recall[:, column].nanmean()
    return means


def _expected(
    queries: torch.Tensor, items: torch.Tensor, relation: Relation, ks: tuple[int, ...], chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """hit@K and recall@K of each query, both ``[Q, ks]``, over all orders of tied items; NaN for a query that nothing
    answers.

    With t the K-th best score, the items above t are among the K best in every order, and of the m items at t some
    s = K - (items above) are, each choice of s as likely as any other. So a query whose answers all are below or among
    the r at t fails with the probability C(m - r, s) / C(m, s), and finds r s / m of these in the mean.
    """
    # Equal features need not give equal scores to the last bit: matrix products sum in an order that depends on the
    # position and on the chunk. Scores of unit vectors within their rounding error, D * eps, are therefore ties.
    tie = queries.shape[1] * torch.finfo(queries.dtype).eps
    hits, recalls = [], []
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        relevant, scores = relation.of_rows(rows, queries.device), queries[rows] @ items.T
        number = relevant.sum(1).double()
        best = scores.topk(min(max(ks), len(items)), dim=1).values
        hit, recall = [], []
        for k in (min(k, len(items)) for k in ks):
            threshold = best[:, k - 1 : k]
            above, at = scores > threshold + tie, (scores - threshold).abs() <= tie
            taken, tied = (k - above.sum(1)).double(), at.sum(1).double()
            found, among = (above & relevant).sum(1).double(), (at & relevant).sum(1).double()
            missed = _none_of(tied, among, taken)
            recall.append((found + among * taken / tied) / number)
            hit.append(torch.where(found > 0, 1.0, (1 - missed).maximum(recall[-1])))  # above it but for rounding
        hits.append(torch.stack(hit, 1).where(number[:, None] > 0, torch.nan))
        recalls.append(torch.stack(recall, 1).where(number[:, None] > 0, torch.nan))
    return torch.cat(hits), torch.cat(recalls)


def _none_of(items: torch.Tensor, marked: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Probability that none of the marked items is among those drawn (the hypergeometric distribution at 0)."""
    left = items - marked
    logarithm = (
        torch.lgamma(left + 1)
        - torch.lgamma((left - drawn).clamp_min(0) + 1)
        - torch.lgamma(items + 1)
        + torch.lgamma(items - drawn + 1)
    )
    return torch.where(marked == 0, 1.0, torch.where(left < drawn, 0.0, logarithm.exp()))
