"""Retrieval metrics against a brute-force sort, and in the corners where ranks go wrong."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.retrieval import modality_gap, paired_cosine, retrieval_metrics

quick = settings(max_examples=60, deadline=None, derandomize=True)


def features(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def brute_force(images, texts, image_ids, text_ids, ks):
    """Sort every query's items in plain Python: by score, irrelevant items first among equals."""

    def direction(name, queries, items, query_ids, item_ids):
        hits, recalls = {k: [] for k in ks}, {k: [] for k in ks}
        for query, query_id in zip(queries.tolist(), query_ids, strict=True):
            scored = []
            for item, item_id in zip(items.tolist(), item_ids, strict=True):
                # Rounded, so that rows that are equal up to a factor tie here too.
                cosine = sum(a * b for a, b in zip(query, item, strict=True)) / (math.hypot(*query) * math.hypot(*item))
                scored.append((-round(cosine, 9), item_id == query_id))
            ranking = [relevant for _, relevant in sorted(scored)]
            if any(ranking):
                for k in ks:
                    hits[k].append(any(ranking[:k]))
                    recalls[k].append(sum(ranking[:k]) / sum(ranking))
        return {
            f"{name}_{metric}@{k}": sum(values[k]) / len(values[k]) if values[k] else math.nan
            for k in ks
            for metric, values in (("hit", hits), ("recall", recalls))
        }

    return direction("image_to_text", images, texts, image_ids, text_ids) | direction(
        "text_to_image", texts, images, text_ids, image_ids
    )


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
def test_a_collapsed_model_finds_nothing(dim, dtype, chunk):
    # Odd sizes and one-row chunks send the same dot product through different kernels: still a tie.
    x = features(1, dim).expand(37, dim).to(dtype)
    metrics = retrieval_metrics(x, x, ks=(1, 36, 37), chunk=chunk)
    assert {name: value for name, value in metrics.items() if not name.endswith("37")} == dict.fromkeys(
        [f"{d}_{m}@{k}" for d in ("image_to_text", "text_to_image") for m in ("hit", "recall") for k in (1, 36)], 0.0
    )
    assert all(value == 1 for name, value in metrics.items() if name.endswith("37"))


def test_zero_features_find_nothing():
    zeros = torch.zeros(4, 3)
    assert set(retrieval_metrics(zeros, zeros, ks=(1, 3)).values()) == {0.0}


def test_equal_relevant_items_take_different_ranks():
    # Three identical captions of the one image: one of them fits into the top 1, two into the top 2.
    image, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]] * 3)
    metrics = retrieval_metrics(image, texts, image_ids=[7], text_ids=[7, 7, 7], ks=(1, 2, 3))
    assert [metrics[f"image_to_text_recall@{k}"] for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [metrics[f"image_to_text_hit@{k}"] for k in (1, 2, 3)] == [1, 1, 1]


def test_an_irrelevant_twin_ranks_before_the_relevant_item():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = retrieval_metrics(x, x, ks=(1, 2))
    assert metrics["image_to_text_hit@1"] == pytest.approx(1 / 3)
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
        assert hit == sorted(hit)
        assert recall == sorted(recall)
        assert all(0 <= r <= h <= 1 for r, h in zip(recall, hit, strict=True))
        assert hit[-1] == recall[-1] == 1


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
    assert set(retrieval_metrics(collapsed, collapsed, chunk=5).values()) == {0.0}
