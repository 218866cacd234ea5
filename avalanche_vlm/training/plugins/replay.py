"""Replay of exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from avalanche_vlm._host import rows_of_all, sliced, to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.padding import padding_before_move
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import alike
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.mixtures import Mixture, check_mixture
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.selection import herding_ranks, retrieval_margins
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.training.data import experience_batches, images_of, rows_of_batches, train_united
from avalanche_vlm.training.exemplar_views import ExemplarData, TrainingView, reads_rows
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, is_pair_stream, model_of

_ROWS = 256
"""Pairs that are compared with all others at a time."""


class ExemplarReplayPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Replay exemplars of past experiences with every training minibatch.

    They are appended to the minibatch; with ``share`` they take the place of new samples, and an iteration costs what
    it costs without replay; with ``"union"`` new samples and exemplars are one data set, of which every epoch shows
    each once.

    Exemplars go through the training transform of the experience that trains, as new samples do. What was kept is their
    evaluation view, so that view is cropped and mirrored, and not the original picture. Joined with a minibatch they
    are augmented in the training process, one after the other, by random numbers that follow from the memory's seed; in
    a union the data loader does it as for new samples.

    Works on class-labelled and on image-text streams, task-aware or not: a replayed sample keeps its task label, so
    under the label space ``"task"`` it competes among its own task's classes.

    :param model: its transform maps stored pixels to inputs; its features decide what a memory with ``"herding"`` or
        ``"hardest"`` keeps.
    :param memory: memory of the exemplars.
    :param batch_size: replayed samples per iteration, at least 1 (fewer while the memory holds fewer).
    :param mixture: how much of them comes from which past experience.
    :param share: None to append ``batch_size`` samples; a number in (0, 1), the share of the minibatch that is
        replayed; ``"proportional"``, as many as the memory has beside the experience's data; or ``"union"``.
    :param augment: whether exemplars go through the training transform; False replays them as they were kept.
    :raises InputError: for an unknown mixture, a share out of range, or a union with a memory whose samples cannot be
        read one by one.
    """

    states: ClassVar = {"memory": KEPT, "_augmentations": WORKING, "_view": TRANSIENT}

    def __init__(
        self,
        model: VLM,
        memory: ExemplarMemory,
        batch_size: int = 64,
        mixture: Mixture = "uniform",
        share: float | Literal["proportional", "union"] | None = None,
        augment: bool = True,
    ) -> None:
        super().__init__()
        check_mixture(mixture)
        if not (share in (None, "proportional", "union") or (isinstance(share, float) and 0 < share < 1)):
            raise InputError(
                f"the replayed share of a minibatch is between 0 and 1, 'proportional' or 'union', not {share!r}"
            )
        if share == "union" and not reads_rows(memory):
            raise InputError(
                f"share 'union' needs a memory whose samples are read one by one, with read, labels and task_labels, "
                f"which {type(memory).__name__} does not have"
            )
        self.share = share
        if isinstance(memory, ExemplarMemory):  # a budget for nothing is refused before anything is trained
            memory.check_room((3, model.transforms.eval.size, model.transforms.eval.size))
        self.transform = model.transforms.eval
        self.memory = memory
        self.batch_size = whole(batch_size, 1, "the number of replayed samples")
        self.mixture: Mixture = mixture
        self.augment = augment
        self._augmentations = Draws(_augmentation_seed(memory))
        self._view: TrainingView | None = None

    def after_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        self._view = None  # of the experience before, or of one that broke off
        if self.share != "union" or len(self.memory) == 0:
            return
        _check_kind("tokens" in self.memory.read([0]), is_pair_stream(strategy))
        exemplars = ExemplarData(self.memory, self._view_of(strategy)).experience_data()
        strategy.adapted_dataset = strategy.adapted_dataset.concat(exemplars)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.share == "union" and len(self.memory):
            train_united(strategy, **kwargs)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory) == 0 or self.share == "union":
            return
        n = self.batch_size if self.share is None else self._make_room(strategy)
        if n == 0:
            return
        old = self.memory.sample(n, self.mixture)
        _check_kind("tokens" in old, isinstance(strategy.mbatch[0], ImageText))
        views = self._view_of(strategy).images(old["pixels"], self._augmentations.next())
        x: Any = to_device(views, strategy.device)
        if "tokens" in old:
            padding = padding_before_move(old["tokens"], strategy.device, None)
            x = ImageText(x, to_device(old["tokens"], strategy.device), padding)
        strategy.mbatch[0] = torch.cat([strategy.mbatch[0], x])
        strategy.mbatch[1] = rows_of_all([strategy.mbatch[1], to_device(old["y"], strategy.device)])
        if len(strategy.mbatch) > 2:  # a benchmark without task labels has none in its batches
            strategy.mbatch[-1] = rows_of_all([strategy.mbatch[-1], to_device(old["task"], strategy.device)])

    def _view_of(self, strategy: Strategy) -> TrainingView:
        if self._view is None:
            self._view = TrainingView(strategy.experience.dataset, self.transform, self.augment)
        return self._view

    def _make_room(self, strategy: Strategy) -> int:
        """Drop as much of the minibatch, whose order is random, as is replayed; at least one new sample stays."""
        stored, new = len(self.memory), len(strategy.experience.dataset)
        share = self.share if isinstance(self.share, float) else stored / (stored + new)
        size = len(strategy.mbatch[0])
        n = min(round(share * size), size - 1, stored)
        strategy.mbatch[:] = [
            sliced(part, slice(size - n)) if isinstance(part, torch.Tensor) else part[: size - n]
            for part in strategy.mbatch
        ]
        return n

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        # One pass for features where the policy needs them and one for pixels: what is rejected is never held.
        keys = _keys(strategy, self.memory)
        step, start = strategy.experience.current_experience, 0
        for x, y, task_labels in experience_batches(strategy):
            self.memory.add(
                self.transform.to_uint8(images_of(x)),
                y,
                task_labels,
                x.tokens if isinstance(x, ImageText) else None,
                step=step,
                keys=None if keys is None else keys[start : start + len(y)],
            )
            start += len(y)


def _augmentation_seed(memory: ExemplarMemory) -> int:
    """A seed of its own beside the memory's, whose draws choose the exemplars.

    :param memory: memory whose seed it follows from; 0 stands for that of a memory without one in its settings.
    """
    own = memory.settings.get("seed")
    (seed,) = np.random.SeedSequence([own if isinstance(own, int) else 0, 1]).generate_state(1)
    return int(seed)


def _check_kind(kept_pairs: bool, pairs: bool) -> None:
    if kept_pairs != pairs:
        raise InputError("a memory of image-text pairs cannot be replayed into a class stream, or the reverse")


def _keys(strategy: Strategy, memory: ExemplarMemory) -> torch.Tensor | None:
    """The keys of the experience's samples, in order; None where the memory draws its own."""
    policy = memory.policy
    if policy not in ("herding", "hardest"):
        return None
    model = model_of(strategy)
    total = len(strategy.experience.dataset)

    def answers() -> Iterator[tuple[torch.Tensor, ...]]:
        """Labels, and what the policy goes by: features of images, of images and texts, or margins."""
        for x, y, task_labels in experience_batches(strategy):
            features = model.encode_image(images_of(x))
            if policy == "herding":
                yield y, features
            elif isinstance(x, ImageText):
                yield y, features, model.encode_text(x.tokens, padding=x.padding)
            else:
                with model.competing.as_in_training():
                    logits = model.classify(features, task_labels)
                right = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, y[:, None], True)
                yield y, retrieval_margins(logits, right)

    with model.evaluating():
        y, found, *texts = rows_of_batches(answers(), total)
        if policy == "herding":
            # Captions are hardly ever repeated: pairs are herded as one group.
            groups = torch.zeros_like(y) if is_pair_stream(strategy) else y
            # Quotas only shrink: no group will ever have more than its share among these.
            limit = memory.capacity and max(1, memory.capacity // len(groups.unique()))
            return herding_ranks(found, groups, limit)
        if not texts:
            return found
        columns = texts[0].T
        margins = (
            (retrieval_margins(features @ columns, alike(own, y)),)
            for features, own in zip(found.split(_ROWS), y.split(_ROWS), strict=True)
        )
        return rows_of_batches(margins, total)[0]
