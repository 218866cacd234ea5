"""A run with all probes, and what they say of it: which failure, how much, where, and why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import VLMBenchmark, size_of
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.cells import has_diagonal, not_measured
from avalanche_vlm.evaluation.chance import remarks
from avalanche_vlm.evaluation.left_out import images_passed_over
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.models import VLM
from avalanche_vlm.storage.durable import write_or_remark
from avalanche_vlm.studies.attribution import PairedBootstrap, Rule, StepWeights, attribute, attribute_tasks
from avalanche_vlm.studies.diagnosed import ATTRIBUTION, Attribution, Diagnosis
from avalanche_vlm.studies.experiment import Outcome, run_experiment
from avalanche_vlm.training.checkpoint import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.strategies import autocast_of
from avalanche_vlm.weights.average import snapshot

MEASURES = {
    "drift": "points of R@1 (mean of both directions) on {pairs} lost against the pretrained model",
    "interference": "points lost on earlier tasks since each was trained, mean over tasks",
    "erosion": "points lost against the pretrained model on held-out classes and on tasks before they were trained, "
    "mean over sets",
}

PROMPTS = "test pictures and prompts"
"""What pairs are called that were made of pictures with classes."""


def diagnose(
    benchmark: VLMBenchmark,
    recipe: str,
    *,
    model: VLM,
    settings: TrainSettings,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    max_pairs: int = 2000,
    rule: Rule | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    checkpoint: CheckpointPlugin | None = None,
    on_resume: Callable[[CheckpointPlugin], None] | None = None,
) -> tuple[Diagnosis, Outcome]:
    """Run an experiment with probes, then attribute what was lost.

    The probes leave the training as it is, so the matrix is that of
    :func:`~avalanche_vlm.studies.experiment.run_experiment` with the same arguments.

    Two losses are attributed: of pairs against the pretrained model, where there are held-out captions or the stream is
    one of pairs; and of earlier tasks since each was trained, on a stream of classes with two tasks or more. For the
    second, weights are kept on disk meanwhile (:class:`~avalanche_vlm.studies.attribution.steps.StepWeights`).

    :param benchmark: the stream. The pairs are its first held-out captions; without any, the test pairs of an
        image-text stream, or test pictures with the prompts of their classes, which the drift is measured on.
    :param model: trained in place, from the weights that it has now.
    :param max_pairs: how many pairs to take, and how many test pictures to attribute the loss on earlier tasks with,
        drawn with the seed.
    :param rule: what counts as a repair.
    :param progress: called as ``(experience, iteration, iterations)``.
    :param checkpoint: plugin that writes the diagnosis to its folder meanwhile; one that was interrupted goes on there.
        The weights of the steps and the attributions that are finished lie in that folder as well.
    :param on_resume: called with the plugin before an interrupted diagnosis goes on.
    :return: the diagnosis, plain JSON types: scores in percent, losses in points, None for what was not measured; and
        the outcome of the run.
    :raises InputError: as ``run_experiment`` does, and if there are fewer than 4 pairs.
    """
    start = snapshot(model.clip.state_dict())
    pairs, called = probe_pairs(benchmark, model, max_pairs, seed)
    drift = DriftProbe(pairs, max_pairs=None, seed=seed)
    interference, answers = InterferenceProbe(seed=seed), TaskAnswers()
    erosion = ErosionProbe(benchmark.held_out, max_samples=None, seed=seed)
    n_tasks = len(benchmark.task_names)
    whole = has_diagonal(settings.eval_tasks, settings.eval_every)
    folder = None if checkpoint is None else checkpoint.folder
    attributions = []
    with StepWeights(model, start, None if folder is None else folder / "steps") as steps:

        def keep(step: int, matrix: np.ndarray) -> None:
            if benchmark.kind == "classes" and 0 < step < n_tasks and whole:
                steps.keep(step)

        outcome = run_experiment(
            benchmark,
            recipe,
            model=model,
            settings=settings,
            options=options,
            metrics=[drift, interference, erosion, answers],
            seed=seed,
            device=device,
            progress=progress,
            on_row=keep,
            checkpoint=checkpoint,
            on_resume=on_resume,
        )
        of_tasks = benchmark.kind == "classes" and n_tasks > 1 and whole
        if of_tasks:
            tests = [experience.dataset.eval() for experience in benchmark.test_stream]
            precision = partial(autocast_of, outcome.strategy)
            of_steps = partial(attribute_tasks, model, steps, tests, answers.right, precision=precision)
            attributions.append(_once(folder, "tasks", of_steps, rule=rule, seed=seed, most=max_pairs))
    if called != PROMPTS or not of_tasks:
        of_pairs = partial(attribute, model, start, pairs, score=f"{called} R@1")
        attributions.append(_once(folder, f"pairs-{max_pairs}", of_pairs, rule=rule, seed=seed))
    left_out = {of.name for of in benchmark.held_out if of.label_space is None}
    if not whole or settings.eval_tasks != "all":  # no task was evaluated just before its turn
        left_out |= set(erosion.right()) - {of.name for of in benchmark.held_out}
    measured = {
        "drift": _drift_loss(drift),
        "interference": _interference_loss(answers, n_tasks) if whole else [],
        "erosion": _erosion_loss(erosion, left_out),
    }
    exposures = {
        name: {**_interval(losses, seed), "measure": MEASURES[name].format(pairs=called)}
        for name, losses in measured.items()
    }
    found = {
        "protocol": outcome.result["protocol"],
        "tasks": outcome.result["tasks"],
        "remarks": [*remarks(results := [outcome.result]), *not_measured(results), *images_passed_over(results)],
        "exposures": exposures,
        "drift": _drift(drift.result()),
        "interference": interference.result(),
        "erosion": _erosion(erosion.result()),
        "attribution": attributions,
        "versions": outcome.result["protocol"]["versions"],
    }
    return _plain(found), outcome


def _once(folder: Path | None, name: str, find: Callable[..., Any], **asked: Any) -> Attribution:
    """What takes long, and is kept with the checkpoints once it is found."""
    if folder is None:
        return find(**asked)
    path, key = folder / "attributions" / f"{name}.json", repr(asked)
    try:
        if path.exists() and (kept := ATTRIBUTION.read(path))["asked"] == key:
            return kept["found"]
    except InputError as error:
        warnings.warn(f"{error}: what it should hold is found again", VLMWarning, stacklevel=2)
    found = _plain(find(**asked))
    write_or_remark(
        lambda: ATTRIBUTION.write(path, {"asked": key, "found": found}),
        lambda why: warnings.warn(f"{why}: it is found again if this is interrupted", VLMWarning, stacklevel=4),
    )
    return found


def probe_pairs(benchmark: VLMBenchmark, model: VLM, most: int, seed: int) -> tuple[Dataset, str]:
    """Pairs that tell whether images and texts match, and what to call them.

    :param benchmark: the stream whose held-out captions, test pairs or test pictures they are.
    :param model: the model, whose tokenizer reads prompts.
    :param most: number of pairs at most, drawn with the seed.
    :param seed: seed of the draw, 0 or more.
    :return: samples ``(ImageText, identity, ...)``, and their name in sentences.
    """
    captions = [of for of in benchmark.held_out if of.label_space is None]
    pairs: Dataset
    if captions:
        pairs, called = captions[0].dataset, f"held-out {captions[0].name}"
    else:
        tests: Dataset = ConcatDataset([experience.dataset.eval() for experience in benchmark.test_stream])
        if benchmark.label_space is None:
            pairs, called = tests, "test pairs"
        else:
            prompts = [prompts[0] for prompts in benchmark.label_space.prompts()]
            pairs, called = _WithPrompts(tests, model, prompts), PROMPTS
    number = size_of(pairs)
    if number > most:
        drawn = torch.randperm(number, generator=torch.Generator().manual_seed(seed))[:most]
        pairs = Subset(pairs, drawn.sort().values.tolist())
    return pairs, called


class _WithPrompts(Dataset):
    """Class-labelled images with the first prompt of their class: samples ``(ImageText, class id)``."""

    def __init__(self, dataset: Dataset, model: VLM, prompts: list[str]) -> None:
        self._dataset = dataset
        self._tokens = model.tokenizer(prompts)

    def __len__(self) -> int:
        return size_of(self._dataset)

    def __getitem__(self, index: int) -> tuple[ImageText, int]:
        image, y, *_ = self._dataset[index]
        return ImageText(image, self._tokens[int(y)]), int(y)


def _drift_loss(probe: DriftProbe) -> list[np.ndarray]:
    hits = probe.hits()
    return [hits[0].mean(0) - hits[max(hits)].mean(0)]


def _interference_loss(answers: TaskAnswers, tasks: int) -> list[np.ndarray]:
    """Of every task but the last: right after its own training, less at the end."""
    return [answers.right[task + 1, task] - answers.right[tasks, task] for task in range(tasks - 1)]


def _erosion_loss(probe: ErosionProbe, left_out: set[str]) -> list[np.ndarray]:
    """Of held-out classes at the end, and of every task just before its turn, but for sets that are left out, as
    captions are, which are the drift's."""
    losses = []
    for name, by_step in probe.right().items():
        if name not in left_out and 0 in by_step and max(by_step) > 0:
            loss = by_step[0].astype(float) - by_step[max(by_step)]
            losses.append(loss if loss.ndim == 1 else loss.mean(0))
    return losses


def _interval(losses: list[np.ndarray], seed: int) -> dict[str, float]:
    """Mean over the sets of their losses, in points."""
    if not losses:
        return dict.fromkeys(("points", "low", "high"), math.nan)
    found = PairedBootstrap([len(loss) for loss in losses], seed=seed).mean(100 * np.concatenate(losses))
    return {"points": found.value, "low": found.low, "high": found.high}


def _drift(result: dict[str, Any]) -> dict[str, Any]:
    curves = {name: [100 * v for v in values] if "@" in name else values for name, values in result["curves"].items()}
    return {**result, "curves": curves}


def _erosion(result: dict[str, Any], most: int = 10) -> dict[str, Any]:
    sets = {
        name: {figure: [100 * v for v in values] for figure, values in of.items()}
        for name, of in result["sets"].items()
    }
    classes = [{**of, "before": 100 * of["before"], "after": 100 * of["after"]} for of in result["classes"][:most]]
    return {"sets": sets, "classes": classes}


def _plain(value: Any) -> Any:
    """Numbers rounded, None for those that are missing."""
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_plain(of) for of in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
