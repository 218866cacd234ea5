"""The padding of texts, and how it goes with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.padding import Padding, padding_before_move, padding_of


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=4))
def test_behind_the_padding_s_start_every_text_repeats_its_token_and_just_before_it_one_does_not(rows):
    tokens = torch.tensor(rows)
    start, token = padding_of(tokens)
    assert all(number == token for row in rows for number in row[start:])
    assert start == 0 or any(row[start - 1] != token for row in rows)
    assert padding_of(tokens[0]) == padding_of(tokens[:1])


@pytest.mark.parametrize("shape", [(0, 7), (0, 0), (3, 0)])
def test_of_no_tokens_nothing_is_left_out(shape):
    assert padding_of(torch.zeros(shape, dtype=torch.long)).start == shape[1]


def test_texts_together_have_the_padding_of_the_longest_if_all_are_padded_alike():
    assert Padding.joined([Padding(3, 0), Padding(9, 0)]) == Padding(9, 0)
    assert Padding.joined([Padding(3, 0), Padding(9, 1)]) is None
    assert Padding.joined([Padding(3, 0), None]) is None and Padding.joined([]) is None


def test_it_is_read_as_tokens_leave_the_cpu_and_never_on_an_accelerator():
    tokens = torch.tensor([[5, 6, 0, 0]])
    assert padding_before_move(tokens, torch.device("cuda"), None) == Padding(2, 0)
    assert padding_before_move(tokens, torch.device("cuda"), Padding(3, 0)) == Padding(3, 0)
    assert padding_before_move(tokens, torch.device("cpu"), None) is None
    assert padding_before_move(tokens.to("meta"), torch.device("cuda"), None) is None  # reading it would fail


def test_pairs_keep_it_through_all_that_is_done_to_them():
    pairs = ImageText(torch.zeros(2, 3, 4, 4), torch.tensor([[5, 6, 0, 0], [5, 0, 0, 0]]), Padding(2, 0))
    others = ImageText(pairs.image, torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0]]), Padding(3, 0))
    for same in (pairs.to("cpu"), pairs.to("meta"), pairs.clone(), pairs.detach(), pairs[:1], pairs[torch.tensor([1])]):
        assert same.padding == Padding(2, 0)
    assert torch.cat([pairs, others]).padding == Padding(3, 0)
    assert torch.cat([pairs, ImageText(pairs.image, others.tokens)]).padding is None
    assert default_collate([pairs[0], pairs[1]]).padding is None  # read when the batch leaves the CPU
