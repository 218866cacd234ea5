"""Merges of task vectors against loops over single elements."""

from __future__ import annotations

import weakref
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.weights.average import snapshot
from avalanche_vlm.weights.task_vectors import (
    apply,
    average,
    magmax,
    no_ties,
    random_mix,
    task_vector,
    ties,
    update_magmax,
    update_ties,
)

SHAPES = {"w": (3, 2), "b": (4,), "scale": ()}


def vectors(n: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Of few distinct values, so that ties and cancellations happen."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: torch.randint(-4, 5, shape, generator=generator).double() / 2 for name, shape in SHAPES.items()}
        for _ in range(n)
    ]


def flat(vector: dict[str, torch.Tensor]) -> list[float]:
    return [value for name in SHAPES for value in vector[name].flatten().tolist()]


def test_a_vector_takes_the_pretrained_weights_to_the_fine_tuned_ones():
    pretrained, fine_tuned = vectors(2)
    pretrained["steps"] = fine_tuned["steps"] = torch.tensor(3)
    vector = task_vector(fine_tuned, pretrained)
    assert set(vector) == set(SHAPES)
    there = apply(pretrained, vector)
    assert all(torch.equal(there[name], fine_tuned[name]) for name in fine_tuned)
    half = apply(pretrained, vector, 0.5)
    assert torch.equal(half["w"], (pretrained["w"] + fine_tuned["w"]) / 2)
    assert half["steps"] is not pretrained["steps"] and half["steps"] == 3


def test_a_vector_of_other_weights_is_refused():
    pretrained, fine_tuned = vectors(2)
    with pytest.raises(ValueError, match=r"needs w \[3, 2\] in the pretrained weights"):
        task_vector(fine_tuned, {**pretrained, "w": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="names extra, which the pretrained weights lack"):
        apply(pretrained, {"extra": torch.zeros(1)})


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_average_and_magmax_equal_their_loops(n, seed):
    many = vectors(n, seed)
    columns = list(zip(*(flat(v) for v in many), strict=True))
    assert flat(average(iter(many))) == pytest.approx([sum(column) / n for column in columns], abs=1e-12)
    largest = [max(column, key=lambda value: (abs(value), value)) for column in columns]
    assert flat(magmax(iter(many))) == largest


def test_streaming_magmax_equals_the_batch_whatever_the_order():
    many = vectors(4)
    for order in permutations(many):
        merged = snapshot(order[0])
        storage = merged["w"].data_ptr()
        for vector in order[1:]:
            update_magmax(merged, vector)
        assert flat(merged) == flat(magmax(many)) and merged["w"].data_ptr() == storage


def naive_ties(many: list[list[float]], keep: float) -> list[float]:
    trimmed = []
    for vector in many:
        n = max(1, int(keep * len(vector)))
        threshold = sorted((abs(x) for x in vector), reverse=True)[n - 1]
        trimmed.append([x if abs(x) >= threshold else 0.0 for x in vector])
    merged = []
    for column in zip(*trimmed, strict=True):
        mass = sum(column)
        same = [x for x in column if x * mass > 0]
        merged.append(sum(same) / len(same) if same else 0.0)
    return merged


@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_ties_equals_its_loop_forwards_and_backwards(n, seed, keep):
    many = vectors(n, seed)
    expected = pytest.approx(naive_ties([flat(v) for v in many], keep), abs=1e-12)
    assert flat(ties(iter(many), keep)) == expected
    assert flat(ties(many[::-1], keep)) == expected


def test_ties_has_no_side():
    many = vectors(3)
    mirrored = [{name: -tensor for name, tensor in v.items()} for v in many]
    assert flat(ties(mirrored)) == [-x for x in flat(ties(many))]


def test_a_random_mix_draws_every_vector_equally_often_and_the_same_with_the_same_seed():
    many = [{"w": torch.full((40_000,), float(i))} for i in range(4)]
    mix = random_mix(many, torch.Generator().manual_seed(1))["w"]
    shares = torch.bincount(mix.long(), minlength=4) / len(mix)
    assert (shares - 0.25).abs().max() < 0.01  # more than four standard deviations
    assert torch.equal(mix, random_mix(many, torch.Generator().manual_seed(1))["w"])
    assert not torch.equal(mix, random_mix(many, torch.Generator().manual_seed(2))["w"])


@pytest.mark.parametrize("merge", [average, magmax, ties, lambda v: random_mix(v, torch.Generator())])
def test_merging_holds_one_vector_at_a_time(merge):
    alive = []

    def one_by_one():
        for vector in range(4):
            made = torch.full((3,), float(vector))
            assert all(reference() is None for reference in alive)
            alive.append(weakref.ref(made))
            yield {"w": made}
            del made

    merge(one_by_one())
    assert len(alive) == 4


@pytest.mark.parametrize("merge", [average, magmax, ties])
def test_nothing_to_merge(merge):
    with pytest.raises(ValueError, match="no task vector"):
        merge([])


@pytest.mark.parametrize("keep", [0, 1.1])
def test_a_share_out_of_its_range(keep):
    with pytest.raises(ValueError, match=f"share of the elements in .0, 1., not {keep}"):
        ties(vectors(2), keep)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", [1e-9, 0.2, 0.5, 1.0])
def test_ties_trims_at_the_magnitude_that_sorting_finds(kind, keep):
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (31, 7), "b": (1,), "c": (100,)}
    vector = {name: torch.randn(size, generator=generator).to(kind) for name, size in sizes.items()}
    vector["c"][:40] = vector["c"][0]  # equal ones
    vector["a"][3] = 0
    vector["a"] = vector["a"].T  # not contiguous
    sums = no_ties(vector)
    update_ties(sums, vector, keep)
    ranked = sorted((abs(x) for tensor in vector.values() for x in tensor.flatten().tolist()), reverse=True)
    threshold = ranked[max(1, int(keep * len(ranked))) - 1]
    for name, tensor in vector.items():
        trimmed = torch.where(tensor.abs() >= threshold, tensor, torch.zeros_like(tensor))
        assert torch.equal(sums.positive[name] + sums.negative[name], trimmed)
