"""Positives among pairs: captions of one image, and equal captions of several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.losses.contrastive import multi_positive_contrastive, sigmoid_contrastive
from avalanche_vlm.losses.identity import alike, captions_of, images_of_rows, pair_number, true_captions, with_captions

ROWS = [(1, 1), (1, 2), (2, 2), (0, 2), (0, 3)]
"""Image and caption; image 0 is known from no other row."""


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**32 - 1) | st.integers(0, 3)), min_size=1, max_size=8))
def test_true_captions_are_those_that_some_row_pairs_with_the_image(rows):
    y = torch.tensor([pair_number(*row) for row in rows])
    unit = [image or -1 - n for n, (image, _) in enumerate(rows)]
    pairs = {(unit[n], caption) for n, (_, caption) in enumerate(rows)}
    expected = [[(own, caption) in pairs for _, caption in rows] for own in unit]
    assert true_captions(y).tolist() == expected
    assert captions_of(y).tolist() == [caption for _, caption in rows] and images_of_rows(y).tolist() == unit
    both = [[a[1] == b[1] or (a[0] == b[0] > 0) for b in rows] for a in rows]
    assert alike(y, y).tolist() == both


def test_it_takes_no_product_of_tables():
    y = torch.tensor([pair_number(n // 3 % 40, n % 50) for n in range(200)])
    with FlopCounterMode(display=False) as counter:
        found = true_captions(y)
    assert counter.get_total_flops() == 0  # a matrix product of tables took 2 B^3
    unit, caption = images_of_rows(y), captions_of(y)
    same = (unit[:, None] == unit[None, :]).double() @ (caption[:, None] == caption[None, :]).double()
    assert torch.equal(found, same > 0) and true_captions(y[:0]).shape == (0, 0)


def test_captions_change_hands():
    y = torch.tensor([pair_number(*row) for row in ROWS])
    assert with_captions(y, y.flip(0)).tolist() == [pair_number(ROWS[i][0], ROWS[-1 - i][1]) for i in range(5)]


def test_other_captions_of_an_image_are_positives_in_both_losses():
    y = torch.tensor([pair_number(*row) for row in ROWS])
    true = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    target = torch.tensor(true).double()
    by_rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
    by_columns = -(target / target.sum(0) * logits.log_softmax(0)).sum(0)
    torch.testing.assert_close(multi_positive_contrastive(logits, y, "none"), (by_rows + by_columns) / 2)
    expected = torch.nn.functional.softplus(-logits * (2 * target - 1)).sum(1).mean()
    torch.testing.assert_close(sigmoid_contrastive(logits, y), expected)


@pytest.mark.parametrize("kind", ["tensor", "array", "list"])
def test_images_in_memory_are_known_by_their_content(kind):
    pictures = torch.randint(0, 255, (3, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    order = [0, 0, 1, 2]
    single = [object() for _ in range(3)]
    held = {"tensor": pictures[order], "array": pictures[order].numpy(), "list": [single[i] for i in order]}[kind]
    numbers = Identities()
    first = torch.tensor(PairDataset(held, ["a", "b", "a", "c"], numbers).targets)
    assert captions_of(first).tolist() == [0, 1, 0, 2] and (first >> 32).tolist() == [1, 1, 0, 0]
    again = torch.tensor(PairDataset(held[:1], ["d"], numbers).targets)
    assert again.tolist() == [pair_number(1, 3)]
    # Pictures that occur once leave captions' numbers as they are.
    assert PairDataset(held[1:], ["a", "b", "a"]).targets == [0, 1, 0]
    # So a picture that two data sets have once each is another image in either.
    apart = Identities()
    assert [PairDataset(held[:1], [text], apart).targets for text in "ab"] == [[0], [1]]


def test_names_of_images_that_are_no_paths_are_numbered_where_several_rows_have_one():
    class Named(list):
        paths = ("a", "b", "a")

    class Filed(list):
        paths = (Path("a"), Path("b"), Path("a"))

    numbers = Identities()
    images = [number >> 32 for number in numbers.number(Named("xyz"), "klm")]
    assert images == [1, 0, 1]
    assert [number >> 32 for number in Identities().number(Filed("xyz"), "klm")] == [1, 2, 1]
