"""Zero-shot capability erosion: what is lost on tasks before their turn, and on sets that no task trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue
from torch.utils.data import DataLoader, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import HeldOutSet
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.probes.calibration import expected_calibration_error
from avalanche_vlm.evaluation.probes.quiet import model_of, undisturbed
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models import VLM
from avalanche_vlm.models.taps import ForwardFeatures


@dataclass(frozen=True)
class Answers:
    """What a model said to one set, sample by sample.

    :param right: bool ``[N]``; of pairs ``[2, N]``, images to texts and texts to images. Its mean is the score.
    :param error: expected calibration error, in [0, 1].
    :param y: class ids ``[N]``; None for pairs.
    """

    right: np.ndarray
    error: float
    y: np.ndarray | None = None

    @property
    def score(self) -> float:
        """In [0, 1]."""
        return float(self.right.mean())


class ErosionProbe(VLMMetric):
    """Follow what the pretrained model can do and no task has trained yet, against what it could at the start.

    Held-out sets are read before any training, at the first evaluation or else when training starts, and after every
    trained experience. The tasks of the test stream are read from the strategy's own evaluations, at no cost, for as
    long as they have not been trained; the last evaluation of a step counts. A class-labelled set scores accuracy,
    pairs the mean of both directions' hit@1; the calibration error is that of the softmax over the classes or, from
    images, over the distinct texts.

    Emits ``Erosion/<set>`` (how much of the score is gone since row 0, in [-1, 1]) and ``CalibrationError/<set>``.

    :param held_out: for example ``benchmark.held_out``.
    :param max_samples: of each held-out set, drawn once; None takes all.
    :param bins: of the calibration error.
    :param stream: name of the stream whose tasks are read.
    :param batch_size: samples of held-out sets at a time.
    :param seed: of the draw.
    """

    def __init__(
        self,
        held_out: Sequence[HeldOutSet] = (),
        max_samples: int | None = 128,
        bins: int = 15,
        stream: str = "test",
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.held_out = tuple(held_out)
        self.bins, self.stream, self.batch_size = whole(bins, 1, "bins"), stream, whole(batch_size, 1, "batch_size")
        most = None if max_samples is None else whole(max_samples, 1, "max_samples")
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randperm(len(of.dataset), generator=generator)[:most].sort().values for of in self.held_out]
        self.chosen = [rows.tolist() for rows in drawn]
        self._answers: dict[str, dict[int, Answers]] = {}
        self._classes = {of.name: of.label_space.class_names for of in self.held_out if of.label_space is not None}
        self._trained: set[int] = set()
        self._reading = False
        self._parts: list[tuple[torch.Tensor, ...]] = []

    # Held-out sets ---------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Any) -> list[MetricValue] | None:
        unread = any(0 not in self._answers.get(of.name, {}) for of in self.held_out)
        return self._read_held_out(strategy) if self.step == 0 and unread else None

    def after_eval(self, strategy: Any) -> list[MetricValue] | None:
        return None if self.training else self.before_training(strategy)

    def before_training_exp(self, strategy: Any) -> None:
        super().before_training_exp(strategy)
        self._trained.add(strategy.experience.current_experience)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        super().after_training_exp(strategy)
        return self._read_held_out(strategy)

    @uncounted()
    def _read_held_out(self, strategy: Any) -> list[MetricValue]:
        emitted: list[MetricValue] = []
        model = model_of(strategy)
        for of, chosen in zip(self.held_out, self.chosen, strict=True):
            answers = read_set(model, of, chosen, self.bins, self.batch_size)
            emitted += self._file(of.name, self.step, answers)
        return emitted

    # Tasks -----------------------------------------------------------------------------------------------------------

    def before_eval_exp(self, strategy: Any) -> None:
        experience = strategy.experience
        untrained = experience.current_experience not in self._trained
        self._reading = untrained and experience.origin_stream.name == self.stream
        self._parts = []

    def before_eval_forward(self, strategy: Any) -> None:
        if self._reading and isinstance(strategy.mb_x, ImageText):
            model_of(strategy).taps.append(self._keep)

    def after_eval_forward(self, strategy: Any) -> None:
        if self._reading and isinstance(strategy.mb_x, ImageText):
            strategy.model.taps.remove(self._keep)

    def after_eval_iteration(self, strategy: Any) -> None:
        if not self._reading:
            return
        y = strategy.mb_y
        if isinstance(strategy.mb_x, ImageText):
            self._parts[-1] = (*self._parts[-1], y)
        else:
            confidence, best = strategy.mb_output.float().softmax(1).max(1)
            self._parts.append((confidence, best == y, y))

    def after_eval_exp(self, strategy: Any) -> list[MetricValue] | None:
        if not self._reading or not self._parts:
            return None
        experience = strategy.experience
        name = f"task {getattr(experience, 'task_name', experience.current_experience)}"
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        self._parts, self._reading = [], False
        if columns[0].ndim == 2:
            answers = answers_on_pairs(strategy.model, *columns, self.bins)
        else:
            answers = answers_on_classes(*columns, self.bins)
            space = strategy.model.label_space if isinstance(strategy.model, VLM) else None
            if space is not None:
                self._classes[name] = space.class_names
        return self._file(name, self.row, answers)

    def _keep(self, features: ForwardFeatures) -> None:
        self._parts.append((features.images, features.texts[features.text_of_image]))

    # Results ---------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """``sets``: by name, ``score`` and ``calibration error``, one value per step in [0, 1], NaN where nothing was
        read. ``classes``: all of them as ``set``, ``class``, ``before`` (row 0) and ``after`` (the last step read),
        accuracies in [0, 1], most eroded first."""
        sets, nan = {}, float("nan")
        for name, by_step in self._answers.items():
            read = [by_step.get(step) for step in range(self.step + 1)]
            sets[name] = {
                "score": [nan if a is None else a.score for a in read],
                "calibration error": [nan if a is None else a.error for a in read],
            }
        return {"sets": sets, "classes": self._eroded()}

    def right(self) -> dict[str, dict[int, np.ndarray]]:
        """By set and step, bool ``[N]``, or ``[2, N]`` for pairs: which samples were answered right."""
        return {name: {step: a.right for step, a in by_step.items()} for name, by_step in self._answers.items()}

    def stored(self) -> StoredBytes:
        """The answers; nothing of the data is kept."""
        answers = [a for by_step in self._answers.values() for a in by_step.values()]
        return StoredBytes(ram=sum(a.right.nbytes + (0 if a.y is None else a.y.nbytes) for a in answers))

    def _eroded(self) -> list[dict[str, Any]]:
        found = []
        for name, by_step in self._answers.items():
            last = by_step[max(by_step)]
            if 0 not in by_step or last is by_step[0] or last.y is None:
                continue
            before, after = (_by_class(answers) for answers in (by_step[0], last))
            names = self._classes.get(name)
            found += [
                {"set": name, "class": str(c) if names is None else names[c], "before": before[c], "after": after[c]}
                for c in before
                if c in after
            ]
        return sorted(found, key=lambda entry: entry["after"] - entry["before"])

    def _file(self, name: str, step: int, answers: Answers) -> list[MetricValue]:
        by_step = self._answers.setdefault(name, {})
        by_step[step] = answers
        emitted = {f"CalibrationError/{name}": answers.error}
        if 0 in by_step:
            emitted[f"Erosion/{name}"] = by_step[0].score - answers.score
        return [MetricValue(self, key, value, step) for key, value in emitted.items()]

    def __str__(self) -> str:
        return "ErosionProbe"


@torch.no_grad()
def read_set(model: VLM, of: HeldOutSet, chosen: Sequence[int], bins: int = 15, batch_size: int = 256) -> Answers:
    """A model's answers to samples of a held-out set; nothing of the model is changed.

    :param chosen: which samples.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    with undisturbed(model):
        classes = None if of.label_space is None else model.class_features(of.label_space)
        for x, y, *_ in DataLoader(Subset(of.dataset, list(chosen)), batch_size):
            x, y = x.to(model.device), y.to(model.device)
            if classes is None:
                parts.append((*encode_pairs(model, x), y))
            else:
                confidence, best = model.similarity(model.encode_image(x), classes).softmax(1).max(1)
                parts.append((confidence, best == y, y))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return answers_on_pairs(model, *columns, bins) if classes is None else answers_on_classes(*columns, bins)


def answers_on_classes(confidence: torch.Tensor, right: torch.Tensor, y: torch.Tensor, bins: int = 15) -> Answers:
    """:class:`Answers` of what was predicted: all ``[N]``."""
    error = expected_calibration_error(confidence, right, bins)
    return Answers(right.cpu().numpy(), error, y.cpu().numpy())


@torch.no_grad()
def answers_on_pairs(
    model: VLM, images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor, bins: int = 15
) -> Answers:
    """:class:`Answers` among pairs: features ``[N, D]`` and ids ``[N]``."""
    _, first, label = np.unique(ids.cpu().numpy(), return_index=True, return_inverse=True)
    logits = model.similarity(images, texts[torch.as_tensor(first, device=texts.device)])
    confidence, best = logits.softmax(1).max(1)
    error = expected_calibration_error(confidence, best == torch.as_tensor(label, device=best.device), bins)
    return Answers(first_hits(images, texts, ids).numpy(), error)


def _by_class(answers: Answers) -> dict[int, float]:
    return {int(c): float(answers.right[answers.y == c].mean()) for c in np.unique(answers.y)}
