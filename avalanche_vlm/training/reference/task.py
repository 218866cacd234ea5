"""Draws from the data of the task that trains, apart from its minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import GIVEN, KEPT, TRANSIENT, WORKING, Stateful
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.data import experience_batches, images_of, loading_processes
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Inputs, Lifetime, Numbers
from avalanche_vlm.training.reference.texts import kind_or_tokens, numbered


class CurrentTask(Stateful):
    """Images of the experience under its *evaluation* transforms, in draws of their own, with texts:

    - ``"task"``: the prompts of all classes of the experience; on image-text streams the captions of the draw;
    - a list of texts or their tokens ``[N, L]``: these, which belong to none of the images.

    This is what ZSCL's code gives LwF and LwF-VR (arXiv 2303.06628): its reference set is the training data, shuffled
    apart from the minibatches and under the test transforms, so that a constant teacher's features of it are computed
    once a task. A pass leaves out what does not fill a batch, where that code has a last smaller one. Samples that
    replay adds to a minibatch are not among them.

    :param texts: the texts that the images are compared with, of the kinds above.
    :param tokenizer: the model's tokenizer, for a list of texts.
    :param batch_size: images per iteration, at least 1; no more than the experience has.
    :param texts_per_step: texts of a list that every iteration takes, in shuffled passes, at least 1; None for all.
    :param seed: seed of the draws, 0 or more.
    :raises InputError: for texts of another kind, or none, and for a number out of its range; in training, for a
        caption that differs from one reading to the next.
    """

    states: ClassVar = {
        "texts": GIVEN,
        "_passes": KEPT,
        "_taken": WORKING,
        # Made anew as a task starts, and gone when it is over.
        "_strategy": TRANSIENT,
        "_classes": TRANSIENT,
        "_batches": TRANSIENT,
        "_numbers": TRANSIENT,
        "_listed": TRANSIENT,
    }
    lifetime: Lifetime = "task"

    def __init__(
        self,
        texts: str | Sequence[str] | torch.Tensor = "task",
        tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
        *,
        batch_size: int = 64,
        texts_per_step: int | None = None,
        seed: int = 0,
    ) -> None:
        self.texts = kind_or_tokens(texts, ("task",), tokenizer, texts_per_step, "the current task")
        self.batch_size, self.seed = whole(batch_size, 1, "batch_size"), whole(seed, 0, "seed")
        self._passes = None if texts_per_step is None else Passes(len(texts), texts_per_step, seed)
        self._strategy: Strategy | None = None
        self._classes: torch.Tensor | None = None
        self._batches: Iterator[Any] | None = None
        self._taken = 0
        self._numbers: dict[bytes, int] = {}
        self._listed: int | None = None

    def start(self, strategy: Strategy) -> None:
        self.end()
        self._strategy, experience = strategy, strategy.experience
        if getattr(experience, "label_space", model_of(strategy).label_space) is not None:
            self._classes = torch.tensor(sorted(experience.classes_in_this_experience))

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        strategy, captions = self._strategy, []
        assert strategy is not None, "a task is being trained"
        for x, *_ in experience_batches(strategy, size):
            if isinstance(x, ImageText) and isinstance(self.texts, str):
                known = len(self._numbers)
                rows = numbered(x.tokens, self._numbers)
                captions += [x.tokens[rows == number][0] for number in range(known, len(self._numbers))]
            yield Inputs(images_of(x))
        if isinstance(self.texts, torch.Tensor):
            yield from (Inputs(texts=Prompts(part)) for part in self.texts.split(size))
        elif self._classes is not None:
            yield Inputs(texts=model_of(strategy).prompts(self._classes))
        else:
            self._listed = len(captions)
            yield from (Inputs(texts=Prompts(part)) for part in torch.stack(captions).split(size))

    def next(self, strategy: Strategy, forward: ForwardFeatures | None) -> Inputs | None:
        if self._batches is None:
            self._batches = iter(self._draws(strategy))
        rows, x, y, *_ = next(self._batches)
        self._taken += 1
        device = strategy.device
        images = to_device(images_of(x), device)
        if isinstance(self.texts, torch.Tensor):
            taken: Numbers = slice(None) if self._passes is None else self._passes.next().sort().values
            return Inputs(images, Prompts(self.texts[taken]).to(device), image_rows=rows, text_rows=taken)
        if self._classes is not None:
            prompts = model_of(strategy).prompts(self._classes)
            own = to_device(torch.searchsorted(self._classes, y), device)
            return Inputs(images, prompts, own, rows, slice(None))
        distinct, own = torch.unique(x.tokens, dim=0, return_inverse=True)
        numbers = numbered(distinct, self._numbers)
        if self._listed is not None and int(numbers.max()) >= self._listed:
            raise InputError(
                "a caption of the current task is another each time that it is read, so that what a teacher says of it "
                "cannot be looked up: compare the minibatch itself, CurrentBatch"
            )
        return Inputs(images, Prompts(distinct).to(device), to_device(own, device), rows, numbers)

    def end(self) -> None:
        self._strategy = self._classes = self._batches = self._listed = None
        self._taken = 0
        self._numbers = {}

    def _draws(self, strategy: Strategy) -> ByPlace:
        """The batches of this task: without an end, and each sample with its number in the experience."""
        data = strategy.experience.dataset.eval()
        number = strategy.experience.current_experience
        (seed,) = np.random.SeedSequence([self.seed, number]).generate_state(1)
        walk = Passes(len(data), self.batch_size, int(seed))
        for _ in range(self._taken):  # in a training that goes on in the middle of the task
            walk.next()
        batches = (walk.next().tolist() for _ in count())
        loader: DataLoader = DataLoader(
            _Numbered(data),
            batch_sampler=batches,
            num_workers=loading_processes(strategy),
            pin_memory=strategy.device.type == "cuda",
            # The seeds of its processes: torch's default draws them where the order of the minibatches comes from.
            generator=torch.Generator().manual_seed(int(seed)),
        )
        return ByPlace(loader, False)


class _Numbered(Dataset):
    """Samples, each after its number."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return number, *self.dataset[number]
