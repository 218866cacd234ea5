"""Texts that are longer than what a text tower reads: tokenizers cut them without a word."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.compat.data_sets import source_datasets
from avalanche_vlm.errors import DataWarning, InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark

Tokenizer = Callable[..., torch.Tensor]
"""A function from a list of texts to token ids ``[N, L]``."""


def cut_texts(texts: Sequence[str], tokenizer: Tokenizer, tokens: torch.Tensor | None = None) -> list[int]:
    """Which texts are longer than the tokenizer's context.

    A text whose tokens reach the end of the context is read a second time with twice the room, where the tokenizer
    takes ``context_length`` as open_clip's do: what was cut has more tokens then. Of another tokenizer a text is cut
    if its last word, or the last letter of it, changes nothing.

    :param texts: texts to read.
    :param tokenizer: tokenizer of the model that reads them.
    :param tokens: the texts' token ids ``[N, L]``, if they are known already.
    :return: positions of the texts of which something is cut, in ascending order.

    >>> from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
    >>> cut_texts(["red", "red star", "red star red"], WordTokenizer(["red", "star"], context_length=4))
    [2]
    """
    texts = list(texts)
    if not texts:
        return []
    tokens = tokenizer(texts) if tokens is None else tokens
    padding = tokenizer([""])[0].mode().values
    # Some tokenizers pad with their end token, and some have a token of their own in the last place.
    full = (tokens[:, -2:] != padding).any(1).nonzero().squeeze(1).tolist()
    if not full:
        return []
    suspects = [texts[row] for row in full]
    length = tokens.shape[1]
    longer = _with_room(tokenizer, suspects, 2 * length)
    if longer is not None:
        more = (longer != padding).sum(1) > (tokens[full] != padding).sum(1)
        return [row for row, cut in zip(full, more.tolist(), strict=True) if cut]
    return [row for row, text in zip(full, suspects, strict=True) if _end_is_lost(tokenizer, text, tokens[row])]


def check_prompts(space: LabelSpace, tokenizer: Tokenizer, tokens: torch.Tensor) -> None:
    """Refuse prompts that lose their class's name, and warn of others that are cut.

    A name is lost if the template leaves it no room although there would be some without the template, or if nothing
    of it is read. A name that alone is longer than the context, such as a description, is cut with a warning.

    :param space: classes and templates.
    :param tokenizer: tokenizer of the model that reads them.
    :param tokens: token ids ``[P, L]`` of all prompts, class by class.
    :raises InputError: naming the class and the template.
    """
    templates = zip(space.class_names, space.templates_of_classes(), strict=True)
    owners = [(name, template) for name, group in templates for template in group]
    texts = [template.replace("{}", name) for name, template in owners]
    cut = cut_texts(texts, tokenizer, tokens)
    if not cut:
        return
    heads = [owners[row][1].partition("{}")[0] for row in cut]
    names = [owners[row][0] for row in cut]
    incomplete = set(cut_texts([head + name for head, name in zip(heads, names, strict=True)], tokenizer))
    too_long = set(cut_texts(names, tokenizer))
    unread = set(cut_texts([head + name[:1] for head, name in zip(heads, names, strict=True)], tokenizer))
    for place, row in enumerate(cut):
        if place in unread or place in incomplete - too_long:
            name, template = owners[row]
            raise InputError(
                f"the prompt template {_short(template)} leaves no room for the name of class {_short(name)}: the "
                f"model reads {tokens.shape[1]} tokens of a text, and the prompt is longer"
            )
    first = _short(texts[cut[0]])
    warnings.warn(
        f"{_share(len(cut), len(texts), 'class prompt')} longer than the {tokens.shape[1]} tokens that the model reads "
        f"of a text, and end early: {first} is the first",
        DataWarning,
        stacklevel=4,
    )


def note_cut_captions(benchmark: VLMBenchmark, tokenizer: Tokenizer) -> None:
    """Count the captions of a benchmark that the model does not read to their end, and say so once.

    The counts of captions and of those that are cut go into ``benchmark.data.cut``, by the part of the benchmark, and a
    sentence into ``benchmark.data.notes``. Parts that were counted before are left as they are.

    :param benchmark: a benchmark with captions in its streams, held-out sets or reference pairs.
    :param tokenizer: tokenizer of the model that reads them.
    """
    report = benchmark.data
    found: dict[str, tuple[int, int]] = {}
    example = ""
    for part, captions in captions_in_parts(benchmark):
        if part in report.cut or not captions:
            continue
        distinct = list(dict.fromkeys(captions))
        cut = {distinct[i] for start in range(0, len(distinct), 4096) for i in _cut_of(distinct, start, tokenizer)}
        example = example or next((caption for caption in captions if caption in cut), "")
        found[part] = len(captions), sum(caption in cut for caption in captions)
    report.cut |= {part: {"captions": n, "cut": cut} for part, (n, cut) in found.items()}
    n_cut, n = sum(cut for _, cut in found.values()), sum(n for n, _ in found.values())
    if n_cut:
        where = ", ".join(f"{c} of {m} in {part}" for part, (m, c) in found.items() if c)
        length = tokenizer([example]).shape[1]
        sentence = (
            f"{_share(n_cut, n, 'caption')} longer than the {length} tokens that the model reads of a text, and end "
            f"early ({where}): {_short(example)} is the first"
        )
        report.notes.append(sentence)
        warnings.warn(sentence, DataWarning, stacklevel=3)


def _cut_of(texts: Sequence[str], start: int, tokenizer: Tokenizer) -> Iterable[int]:
    return (start + i for i in cut_texts(texts[start : start + 4096], tokenizer))


def captions_in_parts(benchmark: VLMBenchmark) -> Iterator[tuple[str, list[str]]]:
    """The captions of each part of a benchmark: of its streams by their names, of held-out sets, and ``reference``.

    :param benchmark: a benchmark that may have captions.
    """
    for name, stream in benchmark.streams.items():
        yield name, [caption for experience in stream for caption in _of_dataset(experience.dataset)]
    for held_out in benchmark.held_out:
        yield f"held-out {held_out.name}", _of_dataset(held_out.dataset)
    if benchmark.reference is not None:
        yield "reference", list(benchmark.reference.captions)


def _of_dataset(dataset: Any) -> list[str]:
    return [caption for source in source_datasets(dataset) for caption in getattr(source, "captions", ())]


def _with_room(tokenizer: Tokenizer, texts: list[str], length: int) -> torch.Tensor | None:
    """The texts' tokens in a longer context, None of a tokenizer that has one context only."""
    try:
        if "context_length" not in inspect.signature(tokenizer).parameters:
            return None
        tokens = tokenizer(texts, context_length=length)
    except (TypeError, ValueError):
        return None
    return tokens if tokens.shape[1] == length else None


def _end_is_lost(tokenizer: Tokenizer, text: str, tokens: torch.Tensor) -> bool:
    text = re.sub(r"[\W_]+$", "", text)  # tokenizers may leave these out
    shorter = [part for part in (text[:-1], re.sub(r"[\W_]+$", "", text.rpartition(" ")[0])) if part]
    return any(torch.equal(row, tokens) for row in (tokenizer(shorter) if shorter else ()))


def _share(some: int, of: int, what: str) -> str:
    """The beginning of a sentence on some of many.

    >>> _share(1, 8, "caption"), _share(3, 10, "caption")
    ('1 of 8 captions (12.5 %) is', '3 of 10 captions (30 %) are')
    """
    return f"{some} of {of} {what}s ({100 * some / of:.3g} %) {'is' if some == 1 else 'are'}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:38]} ... {text[-38:]}")
