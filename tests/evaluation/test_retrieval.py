"""Retrieval metrics against a brute-force sort, and in the corners where ranks go wrong."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.evaluation.alignment import modality_gap, paired_cosine
from avalanche_vlm.evaluation.retrieval import (
    first_hits,
    mean_hit_at_1,
    pair_retrieval,
    retrieval_metrics,
)
from avalanche_vlm.losses.identity import pair_number

quick = settings(max_examples=30, deadline=None, derandomize=True)


def features(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def over_all_orders(scores, relevant, k):
    """hit@K and recall@K of one query: the mean over every choice of tied items for the last places."""
    # Rounded, so that rows that are equal up to a factor tie here too.
    scores = [round(score, 9) for score in scores]
    k = min(k, len(scores))
    last = sorted(scores, reverse=True)[k - 1]
    sure = [mark for score, mark in zip(scores, relevant, strict=True) if score > last]
    tied = [mark for score, mark in zip(scores, relevant, strict=True) if score == last]
    found = [sum(sure) + sum(chosen) for chosen in combinations(tied, k - len(sure))]
    return sum(n > 0 for n in found) / len(found), sum(found) / len(found) / sum(relevant)


def brute_force(images, texts, image_ids, text_ids, ks, relates=lambda a, b: a == b):
    """Every query's items in plain Python."""

    def direction(name, queries, items, query_ids, item_ids, related):
        hits, recalls = {k: [] for k in ks}, {k: [] for k in ks}
        for query, query_id in zip(queries.tolist(), query_ids, strict=True):
            length = math.hypot(*query)
            scores = [
                sum(a * b for a, b in zip(query, item, strict=True)) / (length * math.hypot(*item))
                for item in items.tolist()
            ]
            relevant = [related(query_id, item_id) for item_id in item_ids]
            if any(relevant):
                for k in ks:
                    hit, recall = over_all_orders(scores, relevant, k)
                    hits[k].append(hit)
                    recalls[k].append(recall)
        return {
            f"{name}_{metric}@{k}": sum(values[k]) / len(values[k]) if values[k] else math.nan
            for k in ks
            for metric, values in (("hit", hits), ("recall", recalls))
        }

    turned = direction("text_to_image", texts, images, text_ids, image_ids, lambda a, b: relates(b, a))
    return direction("image_to_text", images, texts, image_ids, text_ids, relates) | turned


@st.composite
def problems(draw):
    """Features from a coarse grid, so that exact ties and negative scores abound, and ids that repeat or miss."""
    dim = draw(st.integers(1, 3))
    row = st.lists(st.integers(-1, 1), min_size=dim, max_size=dim).filter(any)
    sides = []
    for _ in range(2):
        rows = draw(st.lists(row, min_size=1, max_size=8))
        ids = draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
        sides.append((F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1), ids))
    (images, image_ids), (texts, text_ids) = sides
    return images, texts, image_ids, text_ids


@quick
@given(problems(), st.sets(st.integers(1, 9), min_size=1), st.integers(1, 9))
def test_agrees_with_a_sort(problem, ks, chunk):
    assert retrieval_metrics(*problem, ks=sorted(ks), chunk=chunk) == pytest.approx(
        brute_force(*problem, sorted(ks)), nan_ok=True
    )


@pytest.mark.parametrize("captions", [1, 3])
def test_agrees_with_a_sort_on_random_features(captions):
    images, texts = features(20, 8, 1), features(20 * captions, 8, 2)
    text_ids = [i // captions for i in range(20 * captions)]
    metrics = retrieval_metrics(images, texts, text_ids=text_ids, chunk=7)
    assert metrics == pytest.approx(brute_force(images, texts, list(range(20)), text_ids, (1, 5, 10)))


def test_by_hand():
    # Image 0 scores the texts 1, 0.6, 0.8 (ids 0, 0, 1): ranking 0, 1, 0. Image 1 scores 0, 0.8, 0.6: ranking 0, 1, 0.
    # hit@1: image 0 yes, image 1 no; recall@1: 1 of 2, 0 of 1; at 2: image 0 has 1 of 2, image 1 has 1 of 1.
    # Text 0 scores the images 1, 0: right. Text 1: 0.6, 0.8, id 0: wrong. Text 2: 0.8, 0.6, id 1: wrong.
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    assert retrieval_metrics(images, texts, text_ids=[0, 0, 1], ks=(1, 2)) == pytest.approx(
        {
            "image_to_text_hit@1": 1 / 2,
            "image_to_text_recall@1": 1 / 4,
            "image_to_text_hit@2": 1,
            "image_to_text_recall@2": 3 / 4,
            "text_to_image_hit@1": 1 / 3,
            "text_to_image_recall@1": 1 / 3,
            "text_to_image_hit@2": 1,
            "text_to_image_recall@2": 1,
        }
    )


def test_a_perfect_model():
    x = features(30, 16)
    assert set(retrieval_metrics(x, x, ks=(1, 5)).values()) == {1.0}


@pytest.mark.parametrize("dim", [2, 3, 17, 64, 513])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 13, 1024])
def test_a_collapsed_model_finds_what_guessing_finds(dim, dtype, chunk):
    # Odd sizes and one-row chunks send the same dot product through different kernels: still a tie.
    x = features(1, dim).expand(37, dim).to(dtype)
    metrics = retrieval_metrics(x, x, ks=(1, 36, 37), chunk=chunk)
    assert len(metrics) == 12
    for name, value in metrics.items():
        assert value == pytest.approx(int(name.split("@")[1]) / 37)


@pytest.mark.parametrize(("relevant", "k"), [(1, 1), (1, 7), (3, 2), (5, 10), (20, 1), (20, 30)])
def test_ties_are_counted_by_expectation(relevant, k):
    # One query whose answers tie with all of 40 texts: against random orders, drawn.
    image, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]).expand(40, 2)
    metrics = retrieval_metrics(image, texts, [0], [0] * relevant + [1] * (40 - relevant), ks=(k,))
    rng = np.random.default_rng(0)
    found = np.array([(rng.permutation(40)[:k] < relevant).sum() for _ in range(20_000)])
    assert metrics[f"image_to_text_hit@{k}"] == pytest.approx((found > 0).mean(), abs=0.015)
    assert metrics[f"image_to_text_recall@{k}"] == pytest.approx(found.mean() / relevant, abs=0.015)
    assert metrics[f"image_to_text_recall@{k}"] == pytest.approx(k / 40)


def test_zero_features_find_what_guessing_finds():
    zeros = torch.zeros(4, 3)
    metrics = retrieval_metrics(zeros, zeros, ks=(1, 3))
    assert [metrics[f"image_to_text_hit@{k}"] for k in (1, 3)] == pytest.approx([1 / 4, 3 / 4])


def test_equal_relevant_items_take_different_ranks():
    # Three identical captions of the one image: one of them fits into the top 1, two into the top 2.
    image, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]] * 3)
    metrics = retrieval_metrics(image, texts, image_ids=[7], text_ids=[7, 7, 7], ks=(1, 2, 3))
    assert [metrics[f"image_to_text_recall@{k}"] for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [metrics[f"image_to_text_hit@{k}"] for k in (1, 2, 3)] == [1, 1, 1]


def test_an_irrelevant_twin_takes_the_first_place_in_half_of_the_orders():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = retrieval_metrics(x, x, ks=(1, 2))
    assert metrics["image_to_text_hit@1"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert metrics["image_to_text_hit@2"] == 1


def test_negative_similarities_count():
    # All similarities are negative, and the right ones are the greatest.
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[-0.6, -0.8], [-1.0, 0.0]])
    # Image 0: -0.6 (its own), -1. Image 1: -1, -0.6 (its own).
    metrics = retrieval_metrics(images, texts, ks=(1,))
    assert set(metrics.values()) == {1.0}


def test_queries_without_a_relevant_item_are_left_out():
    x = torch.eye(3)
    metrics = retrieval_metrics(x, x, image_ids=[0, 1, 9], text_ids=[0, 2, 5], ks=(1,))
    assert set(metrics.values()) == {1.0}  # image 0 and text 0 alone; the others would have halved it
    metrics = retrieval_metrics(x, x, image_ids=[0, 1, 2], text_ids=[3, 4, 5], ks=(1, 5))
    assert len(metrics) == 8
    assert all(map(math.isnan, metrics.values()))


def pairs_of(images: int, captions: int, width: int = 32):
    """A model that knows every picture, on images with several captions each."""
    image = features(images, width, 1).repeat_interleave(captions, 0)
    text = F.normalize(image + 0.02 * features(images * captions, width, 2), dim=1)
    ids = [pair_number(1 + row // captions, row) for row in range(images * captions)]
    return image, text, ids


@pytest.mark.parametrize("captions", [1, 2, 5])
def test_a_model_that_knows_every_picture_scores_all_of_them_whatever_the_number_of_captions(captions):
    image, text, ids = pairs_of(20, captions)
    found = pair_retrieval(image, text, ids, ks=(1,))
    assert found["image_to_text_hit@1"] == found["text_to_image_hit@1"] == mean_hit_at_1(image, text, ids) == 1
    assert found["image_to_text_recall@1"] == pytest.approx(1 / captions)
    assert first_hits(image, text, ids).mean() == 1


def test_as_on_karpathys_test_split():
    # 1,000 images with 5 captions each, scored as CLIP_benchmark does: an image by any of its captions, each once.
    count, each, width = 200, 5, 16
    image = features(count, width, 1)
    text = F.normalize(image.repeat_interleave(each, 0) + 1.2 * features(count * each, width, 2), dim=1)
    ids = [pair_number(1 + row // each, row) for row in range(count * each)]
    found = pair_retrieval(image.repeat_interleave(each, 0), text, torch.tensor(ids), chunk=37)
    scores, owner = image.double().numpy() @ text.double().numpy().T, np.arange(count * each) // each
    for k in (1, 5, 10):
        best = np.argsort(-scores, 1)[:, :k]
        assert found[f"image_to_text_hit@{k}"] == pytest.approx(
            (owner[best] == np.arange(count)[:, None]).any(1).mean()
        )
        best = np.argsort(-scores.T, 1)[:, :k]
        assert found[f"text_to_image_hit@{k}"] == pytest.approx((best == owner[:, None]).any(1).mean())
    assert 0.2 < found["image_to_text_hit@1"] < 0.9


@quick
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7),
    st.integers(0, 99),
    st.integers(1, 4),
    st.integers(1, 8),
)
def test_images_and_captions_may_both_repeat(rows, seed, k, chunk):
    # Image 0 stands for one that is known from no other row.
    rng = torch.Generator().manual_seed(seed)
    image_of, text_of = (torch.randint(-1, 2, (40, 2), generator=rng).float() + 0.1 for _ in range(2))
    units = [("row", n) if image == 0 else ("image", image) for n, (image, _) in enumerate(rows)]
    place = {unit: n for n, unit in reversed(list(enumerate(units)))}
    images = torch.stack([image_of[place[unit]] for unit in units])
    texts = torch.stack([text_of[caption] for _, caption in rows])
    true = {(unit, caption) for unit, (_, caption) in zip(units, rows, strict=True)}
    distinct = list(dict.fromkeys(units))
    expected = brute_force(
        images[[units.index(unit) for unit in distinct]], texts, distinct, [caption for _, caption in rows], [k],
        relates=lambda unit, caption: (unit, caption) in true,
    )  # fmt: skip
    found = pair_retrieval(images, texts, [pair_number(*row) for row in rows], ks=(k,), chunk=chunk)
    assert found == pytest.approx(expected)
    hits = first_hits(images, texts, [pair_number(*row) for row in rows], chunk=chunk)
    one = pair_retrieval(images, texts, [pair_number(*row) for row in rows], ks=(1,))
    assert hits[1].mean().item() == pytest.approx(one["text_to_image_hit@1"])
    assert hits[0].mean().item() == pytest.approx(one["image_to_text_hit@1"])


def test_default_ids_on_one_side_number_its_rows():
    images, texts = features(3, 8, 1), features(6, 8, 2)
    ids = [0, 0, 1, 1, 2, 2]
    assert retrieval_metrics(images, texts, text_ids=ids) == retrieval_metrics(images, texts, [0, 1, 2], ids)
    with pytest.raises(InputError, match="3 image features and 6 text features do not pair up"):
        retrieval_metrics(images, texts)


@quick
@given(problems(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_neither_order_nor_chunk_matters(problem, chunk, random):
    images, texts, image_ids, text_ids = problem
    expected = retrieval_metrics(*problem, ks=(1, 2, 5))
    a, b = random.sample(range(len(images)), len(images)), random.sample(range(len(texts)), len(texts))
    shuffled = retrieval_metrics(
        images[a], texts[b], [image_ids[i] for i in a], torch.tensor(text_ids)[b], ks=(1, 2, 5), chunk=chunk
    )
    assert shuffled == pytest.approx(expected, nan_ok=True)
    # Without a shuffle the mean is over the same numbers in the same order: equal to the bit.
    rechunked = retrieval_metrics(*problem, ks=(1, 2, 5), chunk=chunk)
    assert all(rechunked[name] == value or math.isnan(value) for name, value in expected.items())


@quick
@given(problems())
def test_bounds_and_order(problem):
    ks = (1, 2, 3, 8, 100)
    metrics = retrieval_metrics(*problem, ks=ks)
    for direction in ("image_to_text", "text_to_image"):
        hit = [metrics[f"{direction}_hit@{k}"] for k in ks]
        recall = [metrics[f"{direction}_recall@{k}"] for k in ks]
        if any(map(math.isnan, hit + recall)):
            assert not set(problem[2]) & set(problem[3])
            continue
        assert hit == pytest.approx(sorted(hit))
        assert recall == pytest.approx(sorted(recall))
        assert all(0 <= r <= h + 1e-9 <= 1 + 2e-9 for r, h in zip(recall, hit, strict=True))
        assert hit[-1] == recall[-1] == pytest.approx(1)


def test_the_two_directions_swap_with_the_sides():
    images, texts = features(9, 4, 1), features(12, 4, 2)
    image_ids, text_ids = [0, 0, 1, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8]
    one = retrieval_metrics(images, texts, image_ids, text_ids)
    other = retrieval_metrics(texts, images, text_ids, image_ids)
    for k in (1, 5, 10):
        for metric in ("hit", "recall"):
            assert one[f"image_to_text_{metric}@{k}"] == other[f"text_to_image_{metric}@{k}"]


def test_inputs_are_left_alone_and_carry_no_graph():
    x, y = features(4, 3, 1).requires_grad_(), features(4, 3, 2).double()
    copies = x.detach().clone(), y.clone()
    assert all(type(value) is float for value in retrieval_metrics(x, y).values())
    assert torch.equal(x.detach(), copies[0])
    assert torch.equal(y, copies[1])


@pytest.mark.parametrize("metric", [retrieval_metrics, modality_gap, paired_cosine])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_features_are_named_by_side(metric, value):
    good, bad = features(4, 3), features(4, 3)
    bad[2, 1] = value
    with pytest.raises(InputError, match=r"1 of 4 image features are NaN or infinite, the first in row 2"):
        metric(bad, good)
    with pytest.raises(InputError, match=r"1 of 4 text features are NaN or infinite, the first in row 2"):
        metric(good, bad)


@pytest.mark.parametrize("metric", [retrieval_metrics, paired_cosine, lambda *given: pair_retrieval(*given, ["a"])])
def test_broken_features_are_told_of_before_anything_else_that_is_wrong(metric):
    with pytest.raises(NotFinite, match=r"5 of 5 text features are NaN or infinite"):
        metric(features(4, 3), features(5, 3) * math.nan)
    with pytest.raises(InputError, match="4 image features and 5 text features do not pair up"):
        metric(features(4, 3), features(5, 3))


def test_a_default_device_has_no_say_in_figures():
    images, texts, ids = features(4, 3), features(4, 3, 1), torch.tensor([1, 1, 2, 3])

    def figures() -> list:
        of_ids = retrieval_metrics(images, texts, ids.tolist(), ids), pair_retrieval(images, texts, ids.tolist())
        hits = first_hits(images, texts, ids).tolist()
        return [*of_ids, retrieval_metrics(images, texts), hits, modality_gap(images, texts)]

    wanted = figures()
    torch.set_default_device("meta")
    try:
        assert figures() == wanted
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_features": torch.zeros(0, 3)}, r"image features must be a matrix .*\[0, 3\]"),
        ({"text_features": torch.zeros(3)}, r"text features must be a matrix .*\[3\]"),
        ({"text_features": torch.ones(4, 2)}, "width 3 .* width 2"),
        ({"image_ids": [1, 2]}, r"4 image features need as many ids in a row, got \[2\]"),
        ({"text_ids": torch.zeros(4, 1)}, r"4 text features need as many ids in a row, got \[4, 1\]"),
        ({"text_ids": ["a", "b", "c", "d"]}, "text ids must be numbers"),
        ({"ks": ()}, "whole numbers from 1 on"),
        ({"ks": (0, 1)}, "whole numbers from 1 on"),
        ({"ks": (1.5,)}, "whole numbers from 1 on"),
        ({"chunk": 0}, "chunk of at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        retrieval_metrics(**({"image_features": features(4, 3), "text_features": features(4, 3)} | arguments))


def test_modality_gap():
    # Means (0.5, 0.5) and (-0.5, 0.5): distance 1. Neither lengths nor the number of texts matter.
    images, texts = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 3.0]])
    assert modality_gap(images, texts) == pytest.approx(1)
    assert modality_gap(images, texts.repeat(2, 1)) == pytest.approx(1)
    assert modality_gap(images, images.flip(0)) == pytest.approx(0)
    assert modality_gap(images[:1], -images[:1]) == pytest.approx(2)


def test_paired_cosine():
    x = features(6, 5)
    assert paired_cosine(x, x) == pytest.approx(1)
    assert paired_cosine(x, -x) == pytest.approx(-1)
    assert paired_cosine(torch.eye(2), torch.eye(2).flip(0)) == 0
    with pytest.raises(InputError, match="6 image features and 5 text features do not pair up"):
        paired_cosine(x, x[:5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tf32", [False, True])
def test_cuda_gives_what_the_cpu_gives(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    images, texts = features(300, 64, 1), features(900, 64, 2)
    ids = torch.arange(900) // 3
    expected = retrieval_metrics(images, texts, text_ids=ids)
    assert retrieval_metrics(images.cuda(), texts.cuda(), text_ids=ids, chunk=128) == pytest.approx(expected)
    collapsed = features(1, 64).expand(37, 64).cuda()
    assert retrieval_metrics(collapsed, collapsed, chunk=5)["image_to_text_hit@5"] == pytest.approx(5 / 37)
