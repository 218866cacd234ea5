"""Fewer data for pilots, and fewer samples to score them on."""

from __future__ import annotations

import numpy as np

from avalanche_vlm.studies.advice.parts import balanced_order, scored_on_fewer, share_of


def test_every_beginning_of_the_order_holds_classes_alike():
    labels = np.repeat([0, 1, 2], [40, 20, 2])
    order = balanced_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(62))
    assert np.bincount(labels[order[:6]]).tolist() == [2, 2, 2]
    assert np.bincount(labels[order[:42]]).tolist() == [20, 20, 2]


def test_a_smaller_share_is_part_of_a_larger_one_and_tests_stay(tiny_benchmark):
    half, quarter = (share_of(tiny_benchmark, share, 3) for share in (0.5, 0.25))
    for task in range(2):
        images = [
            {np.asarray(x).tobytes() for x, *_ in b.train_stream[task].dataset.eval()}
            for b in (quarter, half, tiny_benchmark)
        ]
        assert images[0] < images[1] < images[2]
        assert [len(b.train_stream[task].dataset) for b in (quarter, half)] == [16, 32]
        assert len(half.test_stream[task].dataset) == len(tiny_benchmark.test_stream[task].dataset)
    assert share_of(tiny_benchmark, 1.0, 3) is tiny_benchmark


def test_scoring_on_fewer_keeps_classes_alike_and_all_captions(tiny_benchmark):
    fewer = scored_on_fewer(tiny_benchmark, 0, 10)
    assert [len(e.dataset) for e in fewer.test_stream] == [10, 10]
    sizes = {part.name: len(part.dataset) for part in fewer.held_out}
    assert sizes == {"captions": 40, "size": 20, "position": 20}
    assert len(set(fewer.test_stream[0].dataset.targets)) > 5
