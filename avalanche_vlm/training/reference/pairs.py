"""A fixed set of image-text pairs that the user gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, ClassVar, Literal

import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.padding import padding_of
from avalanche_vlm.benchmarks.pair_pictures import PairPictures, read_ahead
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import images_of_rows
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.state import GIVEN, KEPT, TRANSIENT, Stateful
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.data import loading_processes
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.reference.base import Inputs, Lifetime


class ReferenceSet(Stateful):
    """Batches of reference pairs, in shuffled passes, with the captions of the batch or of the whole set.

    An image with several captions is in several pairs; all its captions among the texts are true of it.

    :param model: the model whose tokenizer reads the captions.
    :param pairs: the pairs, which stand for the pretrained model's knowledge.
    :param batch_size: images per iteration, at least 1.
    :param texts: what the images are compared with: ``"batch"``, the captions of these images; ``"all"``, every caption
        of the set, each once (ZSCL).
    :param seed: seed of the order, 0 or more.
    :raises InputError: for texts of another kind, or a set without pairs.
    """

    states: ClassVar = {
        "pairs": GIVEN,
        "text_of_pair": GIVEN,
        "_image": GIVEN,
        "tokens": GIVEN,
        "_passes": KEPT,
        "_ahead": TRANSIENT,  # follows from the passes
    }
    lifetime: Lifetime = "always"

    def __init__(
        self,
        model: VLM,
        pairs: ReferencePairs,
        batch_size: int = 64,
        texts: Literal["batch", "all"] = "batch",
        seed: int = 0,
    ) -> None:
        if texts not in ("batch", "all"):
            raise InputError(f"the texts of a reference set are those of the batch or all, not {texts!r}")
        self.pairs = pairs
        self.texts = texts
        ids: dict[str, int] = {}
        self.text_of_pair = torch.tensor([ids.setdefault(caption, len(ids)) for caption in pairs.captions])
        image = images_of_rows(pairs.identities())
        self._image = image if len(image.unique()) < len(image) else None
        """Number of each pair's image; None where no two pairs have one."""
        self._passes = Passes(len(pairs), batch_size, seed)
        self.tokens = model.tokenizer(list(ids))
        self._padding = padding_of(self.tokens)
        self._ahead: Iterator[torch.Tensor] | None = None
        """Pictures of the batches to come, where the strategy has processes that load data."""

    def start(self, strategy: Strategy) -> None:
        # Those of a batch are few, and how long they are is read on the CPU.
        if self.texts == "all" and self.tokens.device != strategy.device:
            self.tokens = self.tokens.to(strategy.device)

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        yield from map(Inputs, ordered_batches(PairPictures(self.pairs), size))
        for part in self.tokens.split(size):
            yield Inputs(texts=Prompts(part))

    def next(self, strategy: Strategy, forward: ForwardFeatures | None) -> Inputs:
        if self._ahead is None:
            walk = Passes(self._passes.n, self._passes.batch_size, 0)
            walk.load_state_dict(self._passes.state_dict())
            batches = (walk.next().tolist() for _ in count())
            self._ahead = read_ahead(self.pairs, batches, loading_processes(strategy), strategy.device.type == "cuda")
        rows = self._passes.next()
        read = self.pairs.batch(rows.tolist()) if self._ahead is None else next(self._ahead)
        images = to_device(read, strategy.device)
        text_of_image, every = self.text_of_pair[rows], Prompts(self.tokens, padding=self._padding)
        if self.texts == "all":
            true_texts = self._true_texts(rows, torch.arange(len(self.tokens)), images.device)
            own = to_device(text_of_image, images.device)
            return Inputs(images, every, own, rows, slice(None), true_texts=true_texts, set_texts=every)
        texts, text_of_image = text_of_image.unique(return_inverse=True)
        prompts = Prompts(self.tokens[texts]).to(strategy.device)
        true_texts = self._true_texts(rows, texts, images.device)
        own = to_device(text_of_image, images.device)
        return Inputs(images, prompts, own, rows, texts, true_texts=true_texts, set_texts=every)

    def end(self) -> None:
        self._ahead = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._ahead = None

    def _true_texts(self, rows: torch.Tensor, texts: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Whether some pair of the set gives the image of each row each of these texts: bool ``[B, N]``."""
        if self._image is None:
            return None
        of_batch, pair = (self._image[rows][:, None] == self._image[None, :]).nonzero(as_tuple=True)
        table = torch.zeros(len(rows), len(self.tokens), dtype=torch.bool)
        table[of_batch, self.text_of_pair[pair]] = True
        return to_device(table[:, texts], device)
