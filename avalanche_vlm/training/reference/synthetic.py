"""Pairs that a generator makes of prompts, anew for every task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from avalanche_vlm._host import to_device
from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.generators import Generator, generate_pairs
from avalanche_vlm.memory.rows import token_bytes
from avalanche_vlm.memory.state import GIVEN, KEPT, Stateful
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Inputs, Lifetime

_CPU = torch.device("cpu")


class SyntheticPairs(Stateful):
    """Pictures of what must not be forgotten, each with the prompt that it was made of: GIFT's (Wu et al., arXiv
    2503.04229).

    As every task starts, ``n`` pairs are generated from base prompts, for the pretrained model's knowledge, and from
    the prompts (first template) of the classes that earlier experiences trained. Every step draws a batch of them, in
    shuffled passes. Differs from the authors' code, which draws prompts with replacement, and finishes a pass over the
    pairs with a smaller batch.

    The pairs live while their task trains. Between tasks only the base prompts and the ids of the classes seen are
    kept: the pairs of the next task are generated anew, for which the generator must still be there.

    Captions of a pair stream are the user's data, which replay without a buffer must not keep: pairs are generated from
    the base prompts alone. On a class-labelled stream without base prompts there is nothing in the first task, for
    nothing has been learned that could be named.

    :param model: the model whose transforms and tokenizer read the pairs.
    :param generator: makes the pictures; those of another size than the model's are resized.
    :param prompts: base prompts: texts from the pretrained model's world, such as reference captions.
    :param n: pairs per task, at least 2.
    :param batch_size: pairs per iteration, at least 2; at most ``n`` are taken.
    :param seed: seed of the pairs and of their batches, at least 0.
    :raises InputError: for a bad setting; as a task starts, if a pair stream has no base prompts.
    """

    states: ClassVar = {
        "_prompts": GIVEN,
        "_seen": KEPT,
        "_of_task": KEPT,
        "pairs": GIVEN,  # drawn again when their task starts again
        "_batches": KEPT,
    }
    lifetime: Lifetime = "task"

    def __init__(
        self,
        model: VLM,
        generator: Generator,
        prompts: Sequence[str] = (),
        n: int = 1000,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("n", n, 2), ("batch_size", batch_size, 2), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"{name} of the synthetic pairs is {least} or more, not {value}")
        if isinstance(prompts, str):
            raise InputError(f"base prompts are a list of texts, not {prompts!r}")
        refuse_beyond(3 * n * model.transforms.eval.size**2, f"{n} synthetic pairs")
        self.generator = generator
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.pairs: GeneratedPairs | None = None
        self._transform, self._tokenizer = model.transforms.eval, model.tokenizer
        # One object instead of one per prompt: their overhead would be as large as their text.
        self._prompts = "\0".join(prompts).encode()
        self._seen = self._of_task = torch.zeros(0, dtype=torch.long)
        self._batches: Passes | None = None

    def start(self, strategy: Strategy) -> None:
        self.pairs = self._batches = None
        space = getattr(strategy.experience, "label_space", model_of(strategy).label_space)
        classes = [] if space is None else classes_of(strategy.experience)
        self._of_task = torch.tensor(classes, dtype=torch.long)
        prompts = self._known(space)
        if not prompts:
            return
        task = np.random.SeedSequence([self.seed, strategy.experience.current_experience])
        pairs, batches = (int(s) for s in task.generate_state(2))
        self.pairs = self._generated(prompts, pairs)
        self._batches = Passes(self.n, self.batch_size, batches)

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        if self.pairs is None:
            return
        for start in range(0, self.n, size):
            yield Inputs(self._images(slice(start, start + size)))
        for start in range(0, len(self.pairs.tokens), size):
            yield Inputs(texts=self._texts(slice(start, start + size)))

    def next(self, strategy: Strategy, forward: ForwardFeatures | None) -> Inputs | None:
        if self.pairs is None or self._batches is None:
            return None
        rows, device = self._batches.next(), strategy.device
        # Prompts repeat in a batch.
        texts, text_of_image = torch.from_numpy(self.pairs.text[rows.numpy()]).long().unique(return_inverse=True)
        return Inputs(
            self._images(rows.numpy(), device),
            self._texts(texts.numpy()).to(device),
            to_device(text_of_image, device),
            rows,
            texts,
        )

    def end(self) -> None:
        self.pairs = self._batches = None
        self._seen = torch.cat([self._seen, self._of_task]).unique()
        self._of_task = torch.zeros(0, dtype=torch.long)

    def _known(self, space: LabelSpace | None) -> list[str]:
        """Prompts of what must not be forgotten, each once.

        :param space: the classes that the experience's targets belong to; None if they are captions.
        """
        base = self._prompts.decode().split("\0") if self._prompts else []
        if space is not None:
            names = space.prompts()
            base += [names[c][0] for c in self._seen.tolist()]
        elif not base:
            raise InputError(
                "synthetic pairs for an image-text stream are made of base prompts, and there are none: give some, "
                "for example a reference set's captions"
            )
        return list(dict.fromkeys(base))

    def _generated(self, prompts: list[str], seed: int) -> GeneratedPairs:
        pixels, captions = generate_pairs(self.generator, prompts, self.n, seed)
        transform = self._transform
        if pixels.shape[-2:] != (transform.size, transform.size):
            pixels = torch.stack([transform.to_uint8(transform(picture)) for picture in pixels])
        ids = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        tokens = self._tokenizer(list(ids))
        return GeneratedPairs(
            pixels.numpy().copy(),  # without the tensor around it
            np.array([ids[caption] for caption in captions], dtype=np.int32),
            tokens.numpy().astype(f"<u{token_bytes(tokens, None)}"),
        )

    @property
    def _there(self) -> GeneratedPairs:
        assert self.pairs is not None  # asked for while there are pairs only
        return self.pairs

    def _images(self, rows: np.ndarray | slice, device: torch.device = _CPU) -> torch.Tensor:
        return self._transform.from_uint8(to_device(torch.from_numpy(self._there.pixels[rows]), device))

    def _texts(self, rows: np.ndarray | slice) -> Prompts:
        return Prompts(torch.from_numpy(self._there.tokens[rows].astype(np.int64)))


@dataclass(slots=True, eq=False)
class GeneratedPairs:
    """A task's pairs.

    Arrays where the CPU holds them: around small tensors there is more than in them.

    :param pixels: uint8 ``[n, 3, H, W]`` at the model's size.
    :param text: int32 ``[n]``, which of the k distinct prompts belongs to a picture.
    :param tokens: ``[k, L]``, as narrow as they can be.
    """

    pixels: np.ndarray
    text: np.ndarray
    tokens: np.ndarray

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=self.pixels.nbytes + self.text.nbytes + self.tokens.nbytes)
