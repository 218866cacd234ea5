"""Images ranked for texts, and texts ranked for images, however many there are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from avalanche_vlm.benchmarks.context import cut_texts
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.answers import Match
from avalanche_vlm.models.pictures import Pictures, list_of, named_batches
from avalanche_vlm.models.unread_words import warn_of_unread_words
from avalanche_vlm.models.vlm import VLM

_TEXTS = 256
"""Texts that are encoded at a time."""


def retrieve(
    model: VLM, images: Pictures, queries: str | Sequence[str], top_k: int = 10, *, batch_size: int = 64
) -> list[list[Match]]:
    """The images that are most similar to each text, see :meth:`~avalanche_vlm.models.answering.Answering.retrieve`.

    :param model: the model, of which nothing changes.
    :param images: a path, a PIL image, an array, a list of these, or a batch ``[B, 3, H, W]`` under the model's
        transforms.
    :param queries: one text or several.
    :param top_k: images per text at most, at least 1.
    :param batch_size: images that are read and encoded at a time, at least 1.
    :return: a list of images for each query, in the order of the queries.
    :raises InputError: for an image that cannot be read, and queries that are none.
    """
    search = ImageSearch(model, queries, top_k)
    for names, batch in named_batches(images, model.transforms.eval, batch_size):
        search.add(batch, names)
    return search.result()


def retrieve_texts(
    model: VLM, images: Pictures, texts: Sequence[str], top_k: int = 10, *, batch_size: int = 64
) -> list[list[Match]]:
    """The texts that are most similar to each image.

    :param model: the model, of which nothing changes.
    :param images: images as :func:`retrieve` takes them.
    :param texts: the texts that are searched, one or more.
    :param top_k: texts per image at most, at least 1.
    :param batch_size: images that are read and encoded at a time, at least 1.
    :return: a list of texts for each image, in the order of the images.
    :raises InputError: for an image that cannot be read, and texts that are none.
    """
    checked = checked_texts(model, texts, "text")
    features = text_features(model, checked)
    found: list[list[Match]] = []
    for names, batch in named_batches(images, model.transforms.eval, batch_size):
        called = [name or f"image {len(found) + row}" for row, name in enumerate(names)]
        best = BestMatches(image_features(model, batch, called), top_k)
        best.add(features, checked)
        found += best.result()
    return found


class ImageSearch:
    """A search for images that come batch after batch, of which no more than the best are kept.

    Similarities are those that retrieval is measured with (:mod:`avalanche_vlm.evaluation.retrieval`): images go the
    model's way, modules included, and texts that of captions.

    :param model: the model, of which nothing changes.
    :param queries: one text or several.
    :param top_k: images per text at most, at least 1.
    :raises InputError: for queries that are none.
    """

    def __init__(self, model: VLM, queries: str | Sequence[str], top_k: int = 10) -> None:
        self.model = model
        self.queries = checked_texts(model, queries, "query")
        self._best = BestMatches(text_features(model, self.queries), top_k)

    def add(self, images: torch.Tensor, names: Sequence[str | None]) -> None:
        """Search among further images.

        :param images: ``[B, 3, H, W]`` under the model's transforms, on any device.
        :param names: what each is called, None for those without a name.
        :raises InputError: if images are of another size, or a feature is no number.
        """
        called = [name or f"image {self._best.searched + row}" for row, name in enumerate(names)]
        self._best.add(image_features(self.model, images, called), names)

    def result(self) -> list[list[Match]]:
        """The best images so far of each query."""
        return self._best.result()


class BestMatches:
    """The items that are most similar to each of several queries, of those that were added so far.

    :param queries: unit-length features ``[Q, D]``.
    :param top_k: items per query at most, at least 1.

    >>> best = BestMatches(torch.eye(2), top_k=2)
    >>> best.add(torch.eye(2), ["first", "second"])
    >>> best.add(torch.tensor([[0.8, 0.6]]), ["third"])
    >>> [[match.item for match in of_query] for of_query in best.result()]
    [['first', 'third'], ['second', 'third']]
    """

    def __init__(self, queries: torch.Tensor, top_k: int) -> None:
        self._queries = queries
        self.top_k = whole(top_k, 1, "the number of matches (top_k)")
        self.searched = 0
        """How many items were added."""
        self._scores = queries.new_zeros(len(queries), 0)
        self._items: list[list[tuple[int, str | None]]] = [[] for _ in queries]

    def add(self, features: torch.Tensor, items: Sequence[str | None]) -> None:
        """Search among further items.

        :param features: unit-length features ``[n, D]``.
        :param items: what was given for each.
        """
        # What came first stands first, and the order is stable: of equally similar ones the earlier.
        scores = torch.cat([self._scores, self._queries @ features.T.to(self._queries)], 1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.top_k]
        self._scores = scores.gather(1, order)
        kept = scores.shape[1] - len(items)
        for row, places in enumerate(order.tolist()):
            old = self._items[row]
            new = [old[p] if p < kept else (self.searched + p - kept, items[p - kept]) for p in places]
            self._items[row] = new
        self.searched += len(items)

    def result(self) -> list[list[Match]]:
        """The best items of each query, the most similar first, of equally similar ones the earlier."""
        return [
            [Match(index, item, score) for (index, item), score in zip(found, scores, strict=True)]
            for found, scores in zip(self._items, self._scores.tolist(), strict=True)
        ]


def checked_texts(model: VLM, texts: str | Sequence[str], what: str) -> list[str]:
    """Texts that a model can read; warns (:class:`~avalanche_vlm.errors.DataWarning`) of those that it reads in part,
    and of words that it does not have.

    :param model: its tokenizer cuts what is longer than its context.
    :param texts: one text or several.
    :param what: what an error calls one of them.
    :return: the texts as a list.
    :raises InputError: if there are none, or one is no text or empty.
    """
    found = [texts] if isinstance(texts, str) else list_of(texts)
    if not found:
        raise InputError(f"there is no {what} to search for")
    for number, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{what} {number} is no text but {text!r}")
    cut = cut_texts(found, model.tokenizer)
    if cut:
        length = model.tokenizer([found[cut[0]]]).shape[1]
        one = found[cut[0]] if len(found[cut[0]]) <= 80 else f"{found[cut[0]][:77]}..."
        which = f"{len(cut)} of {len(found)} texts are" if len(cut) > 1 else f"the {what} {one!r} is"
        sentence = f"{which} longer than the {length} tokens that {model.name} reads of a text: the rest is not heeded"
        warnings.warn(sentence, DataWarning, stacklevel=5)
    warn_of_unread_words(model, found, what, stacklevel=5)
    return found


def text_features(model: VLM, texts: Sequence[str]) -> torch.Tensor:
    """Unit-length features ``[N, D]`` of texts.

    :param model: the model, in eval mode meanwhile.
    :param texts: texts that were checked.
    """
    with model.evaluating():
        parts = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        features = torch.cat([model.encode_text(model.tokenizer(part)) for part in parts])
    return _finite(features, model, texts)


def image_features(model: VLM, images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Unit-length features ``[B, D]`` of images, modules included.

    :param model: the model, in eval mode meanwhile.
    :param images: ``[B, 3, H, W]`` under the model's transforms, on any device.
    :param names: what an error calls each image.
    """
    with model.evaluating():
        features = model.encode_image(images.to(model.device))
    return _finite(features, model, names)


def _finite(features: torch.Tensor, model: VLM, names: Sequence[str]) -> torch.Tensor:
    wrong = ~features.isfinite().all(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise InputError(f"{model.name} has no feature for {names[row]}: a number in it is none")
    return features
