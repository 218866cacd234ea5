"""Zero-shot capability erosion: what is lost on tasks before their turn, and on sets that no task trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue
from torch.utils.data import Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import HeldOutSet
from avalanche_vlm.errors import naming
from avalanche_vlm.evaluation.accumulators import SampleColumns
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.probes.calibration import expected_calibration_error
from avalanche_vlm.evaluation.probes.quiet import undisturbed
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.losses.identity import captions_of, true_captions
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING, Declared
from avalanche_vlm.models import VLM
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.protocol import Strategy, model_of


@dataclass(frozen=True)
class Answers:
    """What a model said to one set, sample by sample.

    :param right: how right each answer is, float64 ``[N]`` in [0, 1], a fraction where scores tie; of pairs ``[2, N]``,
        images to texts and texts to images, as :func:`~avalanche_vlm.evaluation.retrieval.first_hits` counts them. Its
        mean is the score.
    :param error: expected calibration error, in [0, 1].
    :param y: class ids ``[N]``; None for pairs.
    """

    right: np.ndarray
    error: float
    y: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Share of right answers, in [0, 1]."""
        return float(self.right.mean())


class ErosionProbe(VLMMetric):
    """Follow what the pretrained model can do and no task has trained yet, against what it could at the start.

    Held-out sets are read before any training, at the first evaluation or else when training starts, and after every
    trained experience. The tasks of the test stream are read from the strategy's own evaluations, at no cost, for as
    long as they have not been trained; the last evaluation of a step counts. A class-labelled set scores accuracy,
    pairs the mean of both directions' hit@1; the calibration error is that of the softmax over the classes or, from
    images, over the distinct texts.

    Emits ``Erosion/<set>`` (how much of the score is gone since row 0, in [-1, 1]) and ``CalibrationError/<set>``.

    :param held_out: sets to read, for example ``benchmark.held_out``.
    :param max_samples: most samples of each held-out set, drawn once; None takes all.
    :param bins: number of bins of the calibration error.
    :param stream: name of the stream whose tasks are read.
    :param batch_size: samples of held-out sets that are read at a time.
    :param seed: seed of the draw.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_right": KEPT,
        "_errors": WORKING,
        "_classes": WORKING,
        "_trained": WORKING,
        # What an evaluation collects, until it is over.
        **dict.fromkeys(("_reading", "_said", "_pairs", "_features"), TRANSIENT),
    }

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
        sizes = [len(cast("Sized", of.dataset)) for of in self.held_out]
        drawn = [torch.randperm(n, generator=generator)[:most].sort().values for n in sizes]
        self.chosen = [rows.tolist() for rows in drawn]
        self._right: dict[str, torch.Tensor] = {}
        """How right each sample was answered, and of classes also ``y``, by :func:`_key`."""
        self._errors: dict[str, dict[str, float]] = {}
        """Calibration error by set and, as a word, step: every set and step that was read, in that order."""
        self._classes = {
            of.name: list(of.label_space.class_names) for of in self.held_out if of.label_space is not None
        }
        self._trained: list[int] = []
        self._reading = False
        self._said = SampleColumns("confidence", "right", "y")
        self._pairs = SampleColumns("images", "texts", "ids")
        self._features: tuple[torch.Tensor, torch.Tensor] | None = None

    # Held-out sets ---------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Strategy) -> list[MetricValue] | None:
        unread = any("0" not in self._errors.get(of.name, {}) for of in self.held_out)
        return self._read_held_out(strategy) if self.step == 0 and unread else None

    def after_eval(self, strategy: Strategy) -> list[MetricValue] | None:
        return None if self.training else self.before_training(strategy)

    def before_training_exp(self, strategy: Strategy) -> None:
        super().before_training_exp(strategy)
        self._trained.append(strategy.experience.current_experience)

    def after_training_exp(self, strategy: Strategy) -> list[MetricValue]:
        super().after_training_exp(strategy)
        return self._read_held_out(strategy)

    @uncounted()
    def _read_held_out(self, strategy: Strategy) -> list[MetricValue]:
        emitted: list[MetricValue] = []
        model = model_of(strategy)
        for of, chosen in zip(self.held_out, self.chosen, strict=True):
            with naming(f"held-out set {of.name!r}"):
                answers = read_set(model, of, chosen, self.bins, self.batch_size)
            emitted += self._file(of.name, self.step, answers)
        return emitted

    # Tasks -----------------------------------------------------------------------------------------------------------

    def before_eval_exp(self, strategy: Strategy) -> None:
        experience = strategy.experience
        untrained = experience.current_experience not in self._trained
        self._reading = untrained and experience.origin_stream.name == self.stream
        for columns in (self._said, self._pairs):
            columns.reset()
            columns.to(strategy.device)

    def before_eval_forward(self, strategy: Strategy) -> None:
        if self._reading and isinstance(strategy.mb_x, ImageText):
            model_of(strategy).taps.append(self._keep)

    def after_eval_forward(self, strategy: Strategy) -> None:
        if self._reading and isinstance(strategy.mb_x, ImageText):
            model_of(strategy).taps.remove(self._keep)

    def after_eval_iteration(self, strategy: Strategy) -> None:
        if not self._reading:
            return
        y = strategy.mb_y
        if isinstance(strategy.mb_x, ImageText):
            if self._features is not None:
                self._pairs.update(*self._features, y)
            self._features = None
        else:
            logits = strategy.mb_output
            self._said.update(logits.float().softmax(1).amax(1), rightness(logits, y), y)

    def after_eval_exp(self, strategy: Strategy) -> list[MetricValue] | None:
        if not self._reading or not (self._said.filled or self._pairs.filled):
            return None
        self._reading = False
        experience = strategy.experience
        name = f"task {getattr(experience, 'task_name', experience.current_experience)}"
        if self._pairs.filled:
            images, texts, ids = self._pairs.compute()
            answers = answers_on_pairs(model_of(strategy), images, texts, ids, self.bins)
        else:
            confidence, right, y = self._said.compute()
            answers = answers_on_classes(confidence, right, y, self.bins)
            space = strategy.model.label_space if isinstance(strategy.model, VLM) else None
            if space is not None:
                self._classes[name] = list(space.class_names)
        self._said.reset()
        self._pairs.reset()
        return self._file(name, self.row, answers)

    def _keep(self, features: ForwardFeatures) -> None:
        if features.texts is not None and features.text_of_image is not None:
            self._features = features.images, features.texts[features.text_of_image]

    # Results ---------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """``sets``: by name, ``score`` and ``calibration error``, one value per step in [0, 1], NaN where nothing was
        read. ``classes``: all of them as ``set``, ``class``, ``before`` (row 0) and ``after`` (the last step read),
        accuracies in [0, 1], most eroded first."""
        sets, nan = {}, float("nan")
        for name in self._errors:
            by_step = self._answers(name)
            read = [by_step.get(step) for step in range(self.step + 1)]
            sets[name] = {
                "score": [nan if a is None else a.score for a in read],
                "calibration error": [nan if a is None else a.error for a in read],
            }
        return {"sets": sets, "classes": self._eroded()}

    def right(self) -> dict[str, dict[int, np.ndarray]]:
        """By set and step, how right each sample was answered: float64 ``[N]`` in [0, 1], or of pairs ``[2, N]``."""
        return {name: {step: a.right for step, a in self._answers(name).items()} for name in self._errors}

    def _answers(self, name: str) -> dict[int, Answers]:
        """What was said to a set, by step."""
        found = {}
        for step, error in self._errors[name].items():
            y = self._right.get(_key(name, step, "y"))
            right = self._right[_key(name, step, "right")]
            found[int(step)] = Answers(right.numpy(), error, None if y is None else y.numpy())
        return found

    def _eroded(self) -> list[dict[str, Any]]:
        found = []
        for name in self._errors:
            by_step = self._answers(name)
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
        self._errors.setdefault(name, {})[str(step)] = answers.error
        self._right[_key(name, step, "right")] = torch.from_numpy(answers.right)
        if answers.y is not None:
            self._right[_key(name, step, "y")] = torch.from_numpy(answers.y)
        emitted = {f"CalibrationError/{name}": answers.error}
        if "0" in self._errors[name]:
            emitted[f"Erosion/{name}"] = self._answers(name)[0].score - answers.score
        return [MetricValue(self, key, value, step) for key, value in emitted.items()]


def _key(name: str, step: int | str, column: str) -> str:
    return f"{step}/{column}/{name}"


@torch.no_grad()
def read_set(model: VLM, of: HeldOutSet, chosen: Sequence[int], bins: int = 15, batch_size: int = 256) -> Answers:
    """A model's answers to samples of a held-out set; nothing of the model is changed.

    :param model: model to look at, in eval mode meanwhile.
    :param of: set to read.
    :param chosen: positions of the samples that are read.
    :param bins: number of bins of the calibration error.
    :param batch_size: samples that are read at a time.
    """
    said = SampleColumns("confidence", "right", "y", sync_on_compute=False)
    pairs = SampleColumns("images", "texts", "ids", sync_on_compute=False)
    with undisturbed(model):
        asked = None if of.label_space is None else OtherClasses(model, of.label_space)
        for x, y, *_ in ordered_batches(Subset(of.dataset, list(chosen)), batch_size):
            x, y = x.to(model.device), y.to(model.device)
            if asked is None:
                pairs.update(*encode_pairs(model, x), y)
            else:
                logits = asked.logits(x)
                said.update(logits.softmax(1).amax(1), rightness(logits, y), y)
    if asked is None:
        images, texts, ids = pairs.compute()
        return answers_on_pairs(model, images, texts, ids, bins)
    confidence, right, y = said.compute()
    answered(right)
    return answers_on_classes(confidence, right, y, bins)


def answers_on_classes(confidence: torch.Tensor, right: torch.Tensor, y: torch.Tensor, bins: int = 15) -> Answers:
    """:class:`Answers` to samples with classes.

    :param confidence: probability of the predicted class ``[N]``.
    :param right: how right each answer is ``[N]``, in [0, 1] or bool.
    :param y: class ids ``[N]``.
    :param bins: number of bins of the calibration error.
    """
    error = expected_calibration_error(confidence, right, bins)
    return Answers(right.cpu().double().numpy(), error, y.cpu().numpy())


@torch.no_grad()
def answers_on_pairs(
    model: VLM, images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor, bins: int = 15
) -> Answers:
    """:class:`Answers` among pairs.

    :param model: model whose scale and bias make features logits.
    :param images: features of the images ``[N, D]``.
    :param texts: features of the texts ``[N, D]``, row n that of image n's.
    :param ids: identities of the pairs ``[N]``.
    :param bins: number of bins of the calibration error.
    """
    _, found = np.unique(captions_of(ids).cpu().numpy(), return_index=True)
    first = torch.as_tensor(found, device=texts.device)
    logits = model.similarity(images, texts[first])
    right = rightness(logits, true_captions(ids.to(logits.device))[:, first])
    error = expected_calibration_error(logits.softmax(1).amax(1), right, bins)
    return Answers(first_hits(images, texts, ids).numpy(), error)


def _by_class(answers: Answers) -> dict[int, float]:
    y = answers.y
    return {} if y is None else {int(c): float(answers.right[y == c].mean()) for c in np.unique(y)}
