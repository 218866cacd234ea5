"""Words that a model does not have: its tokenizer takes them apart without a word, into letters or into nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from avalanche_vlm.errors import DataWarning
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.units import in_short

_WRITTEN = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d")
"""A word as it is written, which may have apostrophes in it: a tokenizer parts it there."""
_SHOWN = 5
"""Words that are named."""


def unread_words(model: VLM, texts: Sequence[str]) -> list[str]:
    """The words of some texts that a model does not have, but for those of the classes that it was trained on.

    :param model: the model that reads the texts. Only the tokenizer of the tiny one says which words it has: those of
        others are made of parts of words, and read whatever is written.
    :param texts: texts that are asked.
    :return: the words as they are written, each once in whatever case, in the order in which they come.
    """
    unknown_words = getattr(model.tokenizer, "unknown_words", None)
    if unknown_words is None:
        return []
    own = () if model.label_space is None else model.label_space.class_names
    learned = {word for name in own for word in unknown_words(name)}
    found: dict[str, str] = {}
    for text in texts:
        for word in _WRITTEN.findall(text):
            if not learned.issuperset(unknown_words(word)):
                found.setdefault(word.lower(), word)
    return list(found.values())


def warn_of_unread_words(model: VLM, texts: Sequence[str], what: str, stacklevel: int) -> None:
    """Warn (:class:`~avalanche_vlm.errors.DataWarning`) of words that a model does not have.

    :param model: the model that reads the texts.
    :param texts: texts that are asked.
    :param what: what one of them is called.
    :param stacklevel: frames between this function and the user's call.
    """
    if words := unread_words(model, texts):
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        named = ", ".join(repr(in_short(word, 40)) for word in words[:_SHOWN])
        where = f"the {what} {in_short(texts[0], 80)!r} has" if len(texts) == 1 else "the texts have"
        sentence = (
            f"{model.name} has no word for {named}{more}, which {where}: it reads them as single letters, or "
            "not at all, and that means nothing to a model that was not trained on such texts"
        )
        warnings.warn(sentence, DataWarning, stacklevel=stacklevel + 1)
