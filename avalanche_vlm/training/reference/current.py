"""The minibatch that is being trained, with its own texts or with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import GIVEN, KEPT, TRANSIENT, WORKING, Stateful
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.data import images_of
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Inputs, Lifetime, Numbers
from avalanche_vlm.training.reference.texts import kind_or_tokens, numbered, packed_texts, unpacked_texts

_OF_CLASSES = ("batch", "task", "seen")


class CurrentBatch(Stateful):
    """The images of the minibatch, as they are when they reach the model (replayed ones included), with texts:

    - ``"batch"``: their own, each once: captions, or the prompts of the classes in the batch;
    - ``"task"``: the prompts of all classes of the experience (LwF);
    - ``"seen"``: the prompts of the classes of earlier experiences (iCaRL), nothing in the first;
    - a list of texts or their tokens ``[N, L]``: these, which belong to none of the images (LwF-VR).

    On image-text streams the first two are the captions of the batch, and there is no ``"seen"``. What the student's
    own forward pass encodes is not encoded again.

    :param texts: the texts that the images are compared with, of the kinds above.
    :param tokenizer: the model's tokenizer, for a list of texts.
    :param texts_per_step: texts of a list that every iteration takes, in shuffled passes, at least 1; None for all.
    :param seed: seed of the passes, 0 or more.
    :raises InputError: for texts of another kind, or none; in training, for ``"seen"`` on image-text pairs, and beside
        latent replay, whose samples have no images.
    """

    states: ClassVar = {
        "texts": GIVEN,
        "_passes": KEPT,
        "_seen": KEPT,
        "_of_task": WORKING,
        "_numbers": TRANSIENT,  # what _numbered reads and writes
        "_numbered": WORKING,
    }
    lifetime: Lifetime = "batch"

    def __init__(
        self,
        texts: str | Sequence[str] | torch.Tensor = "batch",
        tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
        *,
        texts_per_step: int | None = None,
        seed: int = 0,
    ) -> None:
        self.texts = kind_or_tokens(texts, _OF_CLASSES, tokenizer, texts_per_step, "the current batch")
        self._passes = None if texts_per_step is None else Passes(len(texts), texts_per_step, seed)
        self._seen = torch.zeros(0, dtype=torch.long)
        self._of_task = torch.zeros(0, dtype=torch.long)
        self._numbers: dict[bytes, int] = {}

    @property
    def _numbered(self) -> torch.Tensor:
        """The tokens of the texts that have a number, as bytes ``[n, b]`` in the order of the numbers."""
        return packed_texts(self._numbers)

    @_numbered.setter
    def _numbered(self, texts: torch.Tensor) -> None:
        self._numbers = unpacked_texts(texts)

    def start(self, strategy: Strategy) -> None:
        if getattr(strategy.experience, "label_space", model_of(strategy).label_space) is not None:
            self._of_task = torch.tensor(classes_of(strategy.experience))

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        return iter(())

    def next(self, strategy: Strategy, forward: ForwardFeatures | None) -> Inputs | None:
        assert forward is not None, "the current batch has passed through the student"
        x, y = strategy.mb_x, strategy.mb_y
        if len(images_of(x)) != len(forward.images):
            raise InputError(
                "distillation on the current batch needs its images, and latent replay has appended samples without any"
            )
        if isinstance(self.texts, torch.Tensor):
            rows: Numbers = slice(None) if self._passes is None else self._passes.next().sort().values
            texts = Prompts(self.texts[rows]).to(forward.images.device)
            return Inputs(images_of(x), texts, text_rows=rows, student_images=forward.images)
        if isinstance(x, ImageText):
            if self.texts == "seen":
                raise InputError(
                    "distillation of seen classes needs a class-labelled stream; this one has image-text pairs"
                )
            assert forward.tokens is not None  # a forward pass on pairs tells them
            return Inputs(
                x.image,
                Prompts(forward.tokens, padding=forward.padding),
                forward.text_of_image,
                text_rows=numbered(forward.tokens, self._numbers),
                student_images=forward.images,
                student_texts=forward.texts,
            )
        y = on_host(y)
        classes = {"batch": y.unique(), "task": self._of_task, "seen": self._seen}[self.texts]
        if len(classes) == 0:
            return None
        model = model_of(strategy)
        places = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)
        return Inputs(
            x,
            model.prompts(classes),
            to_device(torch.where(classes[places] == y, places, -1), x.device),
            text_rows=classes,
            student_images=forward.images,
            student_texts=_among(forward, classes),
        )

    def end(self) -> None:
        if isinstance(self.texts, str) and self.texts == "seen":
            self._seen = torch.cat([self._seen, self._of_task]).unique()
        self._of_task = self._of_task[:0]
        self._numbers = {}


def _among(forward: ForwardFeatures, classes: torch.Tensor) -> torch.Tensor | None:
    """The features of these classes' prompts, if the forward pass has encoded all of them."""
    if forward.texts is None or forward.classes is None:
        return None
    there = on_host(forward.classes)
    places = torch.searchsorted(there, classes).clamp(max=len(there) - 1)
    return forward.texts[to_device(places, forward.texts.device)] if torch.equal(there[places], classes) else None


def random_sentences(model: VLM, n: int = 1000, words: int = 10, seed: int = 0) -> torch.Tensor:
    """Sentences of random tokens, between the tokens with which the model's tokenizer starts and ends a text: the
    anchors of LwF-VR (Ding et al., arXiv 2207.09248; ZSCL's code takes 1000 of 10 tokens, start and end tokens among
    them, which here are none of the words).

    :param model: the model whose vocabulary they are drawn from.
    :param n: number of sentences, at least 1.
    :param words: random tokens in each sentence, at least 1.
    :param seed: seed of the draw, 0 or more.
    :return: token ids ``[n, L]``, int64.
    :raises InputError: if they do not fit the model's context, for less than one sentence or word, and for a text tower
        that does not tell the size of its vocabulary.
    """
    whole(n, 1, "the number of sentences"), whole(words, 1, "the number of words")
    empty = model.tokenizer([""])[0]
    frame = empty[: int(empty.argmax()) + 1]  # the end token is the largest, or the last that is no padding
    if len(frame) + words > len(empty):
        raise InputError(f"a text of {model.name} has room for {len(empty) - len(frame)} words, not {words}")
    embedding = getattr(getattr(model.clip, "text", model.clip), "token_embedding", None)
    if embedding is None:
        raise InputError(
            f"the text tower of {model.name} does not tell its vocabulary: give CurrentBatch a list of texts"
        )
    vocabulary = torch.ones(embedding.num_embeddings, dtype=torch.bool)
    vocabulary[empty] = False
    choices = vocabulary.nonzero().squeeze(1)
    drawn = choices[torch.randint(len(choices), (n, words), generator=torch.Generator().manual_seed(seed))]
    sentences = empty.repeat(n, 1)
    sentences[:, len(frame) - 1 : len(frame) - 1 + words] = drawn
    sentences[:, len(frame) - 1 + words] = frame[-1]
    return sentences
