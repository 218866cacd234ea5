"""A word-level tokenizer for the shipped tiny model, with open_clip's calling convention."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

_TOKEN = re.compile(r"[^\W\d_]+|\d")
_PIECES = "abcdefghijklmnopqrstuvwxyz0123456789"


class WordTokenizer:
    """Words of a fixed vocabulary, and single characters for every word outside it.

    Ids: 0 padding, 1 start, 2 an unknown character, then the words, then the character pieces, and last the end
    token. The end token has the largest id because open_clip's text towers pool there by default.

    :param words: the vocabulary, lower case.
    :param context_length: tokens per text, start and end included; longer texts are cut and keep their end token.

    >>> tokenizer = WordTokenizer(["a", "red", "star"], context_length=8)
    >>> tokenizer("a red star").tolist()
    [[1, 3, 4, 5, 42, 0, 0, 0]]
    >>> tokenizer.decode(tokenizer("A red fox!")[0])
    'a red f o x'
    """

    pad, start, unknown = 0, 1, 2

    def __init__(self, words: Sequence[str], context_length: int = 20) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._word_ids = {word: 3 + i for i, word in enumerate(self.words)}
        self._piece_ids = {piece: 3 + len(self.words) + i for i, piece in enumerate(_PIECES)}
        self.end = 3 + len(self.words) + len(_PIECES)
        self.vocab_size = self.end + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text of any length, without start, end and padding."""
        ids = []
        for word in _TOKEN.findall(text.lower()):
            known = self._word_ids.get(word)
            ids += [known] if known is not None else [self._piece_ids.get(c, self.unknown) for c in word]
        return ids

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are outside the vocabulary, and are read as single characters.

        >>> WordTokenizer(["a", "red"]).unknown_words("A red fox, 2 b é")
        ['fox', 'é']
        """
        words = [word for word in _TOKEN.findall(text.lower()) if word not in self._word_ids]
        return [word for word in words if word not in self._piece_ids]

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids ``[len(texts), context_length]``, int64."""
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.start, *self.encode(text)[: length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def decode(self, tokens: torch.Tensor) -> str:
        """The words and characters of one row of token ids, joined by spaces."""
        names = {i: w for w, i in (*self._word_ids.items(), *self._piece_ids.items())} | {self.unknown: "?"}
        return " ".join(names[t] for t in tokens.tolist() if t in names)
