"""A pilot: a recipe on a share of the stream's data, and what it came to sample by sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches, reading_by
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import naming
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.memory import Memory
from avalanche_vlm.memory.state import WORKING, Declared, stateful_parts
from avalanche_vlm.models import VLM
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.studies.advice.parts import share_of
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.checkpoint import CheckpointPlugin
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.settings import TrainSettings

LEAST_BATCH = 16
"""Below it a batch costs as much time as it does anyway."""
BEFORE = "untrained tasks"
"""The held-out set of a stream that has none: every task before its turn."""


@dataclass(frozen=True)
class Pilot:
    """What a pilot came to.

    :param recipe: name of the recipe.
    :param share: share of the training data that it trained on, in (0, 1].
    :param tasks: score of each test sample at the end, in [0, 1], an array for each task.
    :param kept: change of each sample's score against the pretrained model, in [-1, 1], by held-out set.
    :param ledger: its entry, as measured.
    :param seconds: what the pilot took, evaluation included.
    :param full_bytes: stored bytes on all data: memories of samples grow with the data up to their budget, the rest
        does not.
    """

    recipe: str
    share: float
    tasks: tuple[np.ndarray, ...]
    kept: Mapping[str, np.ndarray]
    ledger: dict[str, Any]
    seconds: float
    full_bytes: int

    @property
    def last(self) -> float:
        """Mean over tasks at the end, in percent."""
        return 100 * float(np.mean([hits.mean() for hits in self.tasks]))

    @property
    def zero_shot_kept(self) -> float:
        """Mean change on the held-out sets, in points: below 0 is lost. 0 where nothing could be measured."""
        return 100 * float(np.mean([change.mean() for change in self.kept.values()])) if self.kept else 0.0

    @property
    def n_test(self) -> int:
        """Test samples of the smallest task."""
        return min(map(len, self.tasks))

    def as_json(self) -> dict[str, Any]:
        """Plain types, to keep."""
        kept = {name: change.tolist() for name, change in self.kept.items()}
        return {**asdict(self), "tasks": [hits.tolist() for hits in self.tasks], "kept": kept}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Pilot:
        """What :meth:`as_json` gave."""
        kept = {name: np.array(change) for name, change in content["kept"].items()}
        return cls(**{**content, "tasks": tuple(map(np.array, content["tasks"])), "kept": kept})


def run_pilot(
    benchmark: VLMBenchmark,
    recipe: str,
    share: float,
    *,
    pretrained: Scores,
    model: VLM,
    settings: TrainSettings,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int, int], None] | None = None,
    checkpoint: CheckpointPlugin | None = None,
    on_resume: Callable[[CheckpointPlugin], None] | None = None,
) -> Pilot:
    """Train a recipe on a share of the data, and see what it comes to.

    :param benchmark: all of it; test sets are taken as they are.
    :param pretrained: the scores before.
    :param model: pretrained, and trained in place.
    :param settings: settings of a run on all data; see :func:`scaled`.
    :param options: options of the recipe on all data, by name.
    :param clock: tells the time in seconds.
    :param progress: called as :func:`~avalanche_vlm.studies.experiment.run_experiment` calls it; what it raises ends
        the pilot.
    :param checkpoint: plugin that writes the pilot to its folder meanwhile; one that was interrupted goes on there.
    :param on_resume: called with the plugin before an interrupted pilot goes on. The clock has to count what earlier
        processes took for it (:class:`~avalanche_vlm.studies.advice.elapsed.Elapsed`), for the pilot's seconds to do.
    """
    started = clock()
    part, shrink = share_of(benchmark, share, seed), _Shrink(share)
    before = _BeforeTheirTurn(part.test_stream, pretrained.tasks)
    train, chosen = scaled(settings, recipe, options or {}, share)
    outcome = run_experiment(
        part,
        recipe,
        model=model,
        settings=train,
        options=chosen,
        plugins=[shrink],
        # A metric, not a plugin: what it holds of the test data is not kept by the recipe.
        metrics=[] if part.held_out else [before],
        seed=seed,
        device=device,
        progress=progress,
        evaluate=False,
        checkpoint=checkpoint,
        on_resume=on_resume,
    )
    with reading_by(train.num_workers):
        final = Scores(model, part)
    kept = {name: scores - pretrained.held_out[name] for name, scores in final.held_out.items()}
    if not kept and len(before.changes):
        kept = {BEFORE: before.changes}
    full = outcome.result["costs"]["stored_bytes"] + shrink.growth(outcome.strategy.plugins)
    return Pilot(
        recipe,
        share,
        final.tasks,
        kept,
        dict(outcome.ledger),
        clock() - started,
        full,
    )


def training_cost(samples: Sequence[int], batch_size: int, share: float) -> float:
    """What training on a share costs, in a unit of its own: steps, times the cube root of the batch.

    A step on four times the samples takes less than four times as long, the more so as prompts are encoded in every
    step: from 16 to 64 samples 1.2 to 2.2 times with the recipes that advice tries, on the tiny model.

    :param samples: number of every task's training samples on all data.
    :param batch_size: batch size of a run on all data.
    """
    size = _batch(batch_size, share)
    return sum(-(-max(2, round(share * n)) // size) for n in samples) * size ** (1 / 3)


def _batch(batch_size: int, share: float) -> int:
    return min(batch_size, max(LEAST_BATCH, round(batch_size * share)))


def scaled(
    settings: TrainSettings, recipe: str, options: Mapping[str, Any], share: float
) -> tuple[TrainSettings, dict[str, Any]]:
    """Settings and options of a pilot: batches, replayed ones too, shrink with the data, so that the optimizer takes
    as many steps as it would on all data, for as long as batches have :data:`LEAST_BATCH` samples; below that steps get
    fewer, and those of warm-up with them."""
    size = _batch(settings.batch_size, share)
    all_options = {**recipes.get(recipe).settings, **options}
    options = dict(options)
    if all_options.get("batch_size"):
        options["batch_size"] = max(2, round(all_options["batch_size"] * size / settings.batch_size))
    warmup = int(settings.warmup * min(1.0, share * settings.batch_size / size))
    return replace(settings, batch_size=size, warmup=warmup), options


class Scores:
    """Every sample's score, in [0, 1]: right or wrong for classes, the mean of both directions' hit@1 for pairs.

    :param model: evaluated in eval mode.
    :param benchmark: the stream, whose label space the model gets if it has another.
    """

    def __init__(self, model: VLM, benchmark: VLMBenchmark) -> None:
        if benchmark.label_space is not None and model.label_space is not benchmark.label_space:
            model.set_label_space(benchmark.label_space)
        with model.evaluating():
            self.tasks = tuple(task_scores(model, experience) for experience in benchmark.test_stream)
            self.held_out = {of.name: _held_out(model, of) for of in benchmark.held_out}


def task_scores(model: VLM, experience: Any) -> np.ndarray:
    """Score of each sample of a task, in [0, 1].

    :param model: the model, in eval mode.
    :param experience: an experience of a test stream; the model adapts to it as in a strategy's evaluation.
    """
    model.adaptation(experience)
    return _scores(model, experience.dataset.eval())


def _scores(model: VLM, dataset: Any) -> np.ndarray:
    right, pairs = [], []
    for x, y, *rest in ordered_batches(dataset, 256):
        x = x.to(model.device)
        if isinstance(x, ImageText):
            pairs.append((*encode_pairs(model, x), y))
        else:
            right.append(rightness(model(x, rest[-1].to(model.device)), y).cpu())
    if pairs:
        images, texts, ids = (torch.cat(part) for part in zip(*pairs, strict=True))
        return first_hits(images, texts, ids).double().mean(0).numpy()
    return answered(torch.cat(right)).numpy()


def _held_out(model: VLM, held_out: Any) -> np.ndarray:
    if held_out.label_space is None:
        return _scores(model, held_out.dataset)
    asked = OtherClasses(model, held_out.label_space)
    with naming(f"held-out set {held_out.name!r}"):
        right = [
            rightness(asked.logits(x.to(model.device)), y).cpu() for x, y, *_ in ordered_batches(held_out.dataset, 256)
        ]
        return answered(torch.cat(right)).numpy()


class _BeforeTheirTurn(VLMMetric):
    """Scores every task from the second on before its turn, against the pretrained model."""

    states: ClassVar[Mapping[str, Declared]] = {"_found": WORKING}

    def __init__(self, tests: Sequence[Any], pretrained: Sequence[np.ndarray]) -> None:
        super().__init__()
        self._tests, self._pretrained = tests, pretrained
        self._found: list[np.ndarray] = []

    @property
    def changes(self) -> np.ndarray:
        """Of all their samples."""
        return np.concatenate(self._found) if self._found else np.zeros(0)

    @uncounted()
    def before_training(self, strategy: Any) -> None:
        if self.step:
            model: VLM = strategy.model
            with model.evaluating():
                scores = task_scores(model, self._tests[self.step])
            self._found.append(scores - self._pretrained[self.step])

    def result(self) -> np.ndarray:
        """:attr:`changes`."""
        return self.changes

    def __str__(self) -> str:
        return "BeforeTheirTurn"


class _Shrink(VLMPlugin, supports_distributed=True):
    """Gives memories of samples the pilot's share of their budget: on a share of the data a whole budget would hold
    more of the past than it will on all of it."""

    states: ClassVar = {"_budgets": WORKING}

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._budgets: list[int] = []
        """On all data, of the memories in the order of their plugins."""

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        if self._budgets:
            return
        for memory, budget in _growing(strategy.plugins):
            self._budgets.append(budget)
            memory.resize(max(min(budget, 1 << 14), int(budget * self._share)))

    def growth(self, plugins: Sequence[Any]) -> int:
        """Bytes that memories hold more on all data than they do on the share.

        :param plugins: the plugins of the training, at its end.
        """
        held = [memory.stored().total for memory, _ in _growing(plugins)]
        of = zip(held, self._budgets, strict=True)
        return sum(max(0, min(budget, round(bytes_held / self._share)) - bytes_held) for bytes_held, budget in of)


def _growing(plugins: Sequence[Any]) -> list[tuple[Memory, int]]:
    """Memories of samples with their budgets."""
    return [
        (part, part.max_bytes)
        for part in stateful_parts(plugins)
        if isinstance(part, Memory) and part.grows_with_data and part.max_bytes is not None
    ]
