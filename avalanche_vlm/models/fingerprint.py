"""What a model is before it is trained, by content."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from avalanche_vlm._content import digest
from avalanche_vlm._generators import generators_kept
from avalanche_vlm.memory.settings import tensor_content
from avalanche_vlm.models.feature_cache import layer_settings
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.towers import TOWERS
from avalanche_vlm.models.vlm import VLM

SENTENCES = (
    "",
    "a photo of a tabby cat.",
    "A Photo Of A Tabby Cat!",
    "the old man's dog isn't here; they'd left, we've stayed",
    "two red stars, 12 blue rings and 1,984.50 km of sea",
    "snake_case, kebab-case & camelCase (v2.0) @ 50% #tag",
    "tabs\tand\nlines,  many   spaces",
    "unbelievably counterintuitive electroencephalography",
    "&lt;b&gt; is HTML, and http://a.b/c?d=e an address",
    "na\u00efve caf\u00e9, nai\u0308ve cafe\u0301, Stra\u00dfe, \u00c6r\u00f8",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u03ba\u03b1\u03b9 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u4e2d\u6587 \u0939\u093f\u0928\u094d\u0926\u0940 \u0639\u0631\u0628\u064a",
    "\U0001f431\U0001f469\u200d\U0001f680 \u2013 \u201cquoted\u201d",
    "<start_of_text> <end_of_text> [CLS] </s> <mask>",
    " ".join(["a long way to the end of the context"] * 20),
)
"""Texts by whose tokens tokenizers are told from each other, whatever the data: cases, digits, signs, scripts."""


def weights_of(model: VLM) -> dict[str, Any]:
    """Everything about a model's weights that decides figures.

    :param model: the model as it is before a recipe is built on it.
    :return: plain JSON types: a digest of every parameter and buffer by its name, one of the layers with their settings
        (the same weights behind another activation are another model), precisions, the frozen towers, a digest of the
        weights that train or rest unlike their tower if there are such, and for random weights the seed that they were
        drawn with.
    """
    # What competes belongs to the label space that the model was last given, and is no part of what it knows.
    known = chain(named_weights(model), model.named_buffers())
    tensors = sorted((name, tensor) for name, tensor in known if not name.startswith("competing."))
    drawn = {} if model.weights_seed is None else {"seed": model.weights_seed}
    unlike = [
        name
        for tower in TOWERS
        for name, parameter in model.tower_parameters(tower)
        if parameter.requires_grad == (tower in model.frozen)
    ]
    return {
        **drawn,
        "content": digest(part for name, tensor in tensors for part in (name, tensor_content(tensor))),
        "layers": digest(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(layer)) for layer in layer_settings(model.clip)),
        "precision": sorted({str(tensor.dtype).removeprefix("torch.") for _, tensor in model.named_parameters()}),
        "frozen": list(model.frozen),
        **({"unlike_towers": digest(unlike)} if unlike else {}),
    }


def reading_of(model: VLM, texts: Sequence[str]) -> dict[str, str]:
    """What a model's tokenizer makes of texts: another one under the same name is another model.

    :param model: the model whose tokenizer is meant.
    :param texts: texts of the data that the model reads; each counts once, in any order.
    :return: plain JSON types: ``content``, a digest of the tokens of texts that are always the same; ``texts``, one of
        those of the data.
    """
    with generators_kept():
        return {
            "content": digest(_tokens(model, (*SENTENCES, *string.printable))),
            "texts": digest(_tokens(model, sorted(set(texts)))),
        }


def text_libraries(model: VLM) -> tuple[str, ...]:
    """The libraries beside open_clip that cut a model's texts or encode them, whose versions decide numbers as well.

    :param model: the model whose tokenizer and text tower are meant.
    """
    parts = (model.tokenizer, getattr(model.tokenizer, "tokenizer", None), *model.modules())
    roots = {of.__module__.partition(".")[0] for part in parts for of in type(part).__mro__}
    return ("transformers", "tokenizers") if "transformers" in roots else ()


def _tokens(model: VLM, texts: Sequence[str]) -> Iterator[str]:
    """Each text's tokens in words. Some tokenizers leave out tokens at random, and some do not read every text."""
    start = torch.Generator().manual_seed(0).get_state()
    for text in texts:
        random.seed(0)
        np.random.seed(0)
        torch.set_rng_state(start)
        try:
            yield str(model.tokenizer([text]).tolist())
        except Exception as error:  # anyone's function
            yield type(error).__name__
