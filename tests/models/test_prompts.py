"""Groups of tokenised texts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.models.prompts import Prompts


def encoder(tokens: torch.Tensor) -> torch.Tensor:
    """Unit-length features of any tokens, by themselves."""
    x = tokens.double()
    return F.normalize(torch.cat([x.sin(), (x * 0.7).cos()], dim=1), dim=1)


def tokenizer(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text), ord(text[0])] for text in texts])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_a_group_is_the_normalised_mean_of_its_texts_whoever_stands_beside_it(counts, data):
    tokens = torch.arange(2 * sum(counts)).reshape(-1, 2)
    prompts = Prompts(tokens, torch.tensor(counts))
    parts = tokens.split(counts)
    expected = torch.stack([F.normalize(encoder(part).mean(0), dim=0) for part in parts])
    torch.testing.assert_close(prompts.encode(encoder), expected)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, unique=True).map(sorted))
    some = prompts.of(torch.tensor(chosen))
    assert len(some) == len(chosen)
    assert torch.equal(some.tokens, torch.cat([parts[i] for i in chosen]))
    torch.testing.assert_close(some.encode(encoder), expected[chosen])


@pytest.mark.parametrize("counts", [None, torch.ones(4, dtype=torch.long)])
def test_single_texts_are_encoded_as_they_are(counts):
    prompts = Prompts(torch.arange(8).reshape(4, 2), counts)
    calls = []
    assert torch.equal(prompts.encode(lambda tokens: calls.append(tokens) or encoder(tokens)), encoder(prompts.tokens))
    assert len(prompts) == 4 and len(calls) == 1 and torch.equal(calls[0], prompts.tokens)
    assert prompts.of(torch.tensor([1, 3])).tokens.tolist() == [[2, 3], [6, 7]]
    assert prompts.of(torch.arange(4)) is prompts


def test_texts_of_equal_tokens_are_encoded_once_across_and_within_groups():
    tokens = torch.tensor([[5, 1], [2, 2], [5, 1], [2, 2], [3, 3]])
    prompts, calls = Prompts(tokens, torch.tensor([2, 1, 2])), []
    found = prompts.encode(lambda rows: calls.append(len(rows)) or encoder(rows))
    expected = torch.stack([F.normalize(encoder(part).mean(0), dim=0) for part in tokens.split([2, 1, 2])])
    torch.testing.assert_close(found, expected)
    assert calls == [3]


def test_texts_are_tokenised_group_after_group():
    prompts = Prompts.tokenized([["a", "bc"], ["def"]], tokenizer)
    assert prompts.tokens.tolist() == [[1, 97], [2, 98], [3, 100]] and prompts.counts.tolist() == [2, 1]
    nothing = Prompts.tokenized([], pytest.fail)
    assert len(nothing) == 0 and nothing.tokens.shape == (0, 0)


def test_a_gradient_reaches_every_text_of_a_group():
    weight = torch.ones(2, dtype=torch.double, requires_grad=True)
    tokens = torch.arange(6).reshape(3, 2)
    prompts = Prompts(tokens, torch.tensor([2, 1]))
    assert torch.autograd.gradcheck(lambda w: prompts.encode(lambda t: F.normalize(t.add(1) * w, dim=1)), weight)


def test_only_the_tokens_move_and_the_counts_stay_on_the_cpu():
    prompts = Prompts(torch.arange(6).reshape(3, 2), torch.tensor([2, 1])).to(torch.device("meta"))
    assert prompts.tokens.device.type == "meta" and prompts.counts.device.type == "cpu"
    assert prompts.of(torch.tensor([0])).tokens.shape == (2, 2)
