"""The word-level tokenizer."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from avalanche_vlm.models.tiny import build_tokenizer

tokenizer = build_tokenizer()


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_fits_and_ends_with_the_largest_token(texts):
    tokens = tokenizer(texts)
    assert tokens.shape == (len(texts), 20) and tokens.dtype == torch.long
    assert (tokens[:, 0] == tokenizer.start).all()
    assert tokens.max() == tokenizer.end == tokenizer.vocab_size - 1
    for row in tokens:
        last = int(row.nonzero().max())
        assert row[last] == tokenizer.end and (row == tokenizer.end).sum() == 1


@given(st.lists(st.sampled_from(tokenizer.words), min_size=1, max_size=18))
def test_words_of_the_vocabulary_come_back(words):
    text = " ".join(words)
    assert tokenizer.decode(tokenizer(text)[0]) == text
    assert torch.equal(tokenizer(text.upper()), tokenizer(text))


def test_unknown_words_are_spelled_and_stay_distinct():
    assert tokenizer.decode(tokenizer("a dog")[0]) == "a d o g"
    assert not torch.equal(tokenizer("a dog"), tokenizer("a god"))
    assert tokenizer.decode(tokenizer("naïve 42")[0]) == "n a ? v e 4 2"
    assert tokenizer("a dog", context_length=4).shape == (1, 4)
