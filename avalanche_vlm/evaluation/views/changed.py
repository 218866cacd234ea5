"""Which answers changed over a stream: how many, which classes are taken for which, and pictures of some."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from avalanche_vlm._host import on_host, rows_of_all
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.places import located
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.pair_features import PairFeaturesMetric
from avalanche_vlm.evaluation.tracked import TrackedMetric, most_confused
from avalanche_vlm.evaluation.views.nearest import nearest_captions, right_captions
from avalanche_vlm.evaluation.views.records import (
    MOST_CLASSES,
    MOST_EXAMPLES,
    MOST_TURNS,
    ChangedRecord,
    ConfusionsRecord,
    ExampleRecord,
    chosen_examples,
)
from avalanche_vlm.evaluation.views.thumbnails import thumbnail
from avalanche_vlm.losses.identity import captions_of
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.training.protocol import Strategy, model_of

_ALIKE = 3
"""Pictures of a task with the same class and the same two answers, at most."""

Counts = dict[tuple[int, int], int]


class ChangedAnswers(TrackedMetric, PairFeaturesMetric):
    """Answers to a stream's test samples, of the pretrained model and at the end: for an image the class with the best
    logit, of pairs the nearest caption among those of its task. Emits nothing.

    :param benchmark: the stream whose test samples are answered.
    :param most: pictures that are kept, at most; 0 keeps no sample.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_before": WORKING,
        "_chosen": TRANSIENT,
        "_true": TRANSIENT,
        "_sides": TRANSIENT,
        "_reading": TRANSIENT,
        "_changed": TRANSIENT,
        "_counts": TRANSIENT,
        "_examples": TRANSIENT,
    }

    def __init__(self, benchmark: VLMBenchmark, most: int) -> None:
        super().__init__()
        self._benchmark = benchmark
        self._last = len(benchmark.train_stream)
        self._most = min(most, MOST_EXAMPLES)
        # Of each kind and task more than its share, since other tasks may have none.
        self._of_task = math.ceil(2 * self._most / max(1, len(benchmark.task_names))) if self._most else 0
        self._before: dict[str, torch.Tensor] = {}
        """By task what the pretrained model answers, int32 ``[N]``: classes, or the rows of captions."""
        self._start()
        self._open()

    def _start(self) -> None:
        """Forget what was found at the end."""
        self._changed: dict[int, list[int]] = {}
        self._counts: dict[str, Counts] = {"before": {}, "after": {}}
        self._examples: dict[int, dict[str, list[ExampleRecord]]] = {}

    def _open(self) -> None:
        """Forget what was read of a task."""
        self._chosen: list[torch.Tensor] = []
        self._true: list[torch.Tensor] = []
        self._sides: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._reading = False

    def before_eval(self, strategy: Strategy) -> None:
        super().before_eval(strategy)
        self._start()

    def before_eval_exp(self, strategy: Strategy) -> None:
        self._open()
        own = strategy.experience.origin_stream.name == "test"
        self._reading = own and self.row in (0, self._last) and self._last > 0

    def after_eval_iteration(self, strategy: Strategy) -> None:
        if not self._reading:
            return
        x, y, logits = strategy.mb_x, strategy.mb_y, strategy.mb_output
        if isinstance(x, ImageText):
            self._sides.append(self.pair_features(strategy))
            self._true.append(y)
        elif torch.is_tensor(logits) and logits.ndim == 2 and y.ndim == 1:
            self._chosen.append(logits.argmax(1))
            self._true.append(y)

    def after_eval_exp(self, strategy: Strategy) -> None:
        if self._reading and self._true:
            task, y = strategy.experience.current_experience, on_host(rows_of_all(self._true))
            pairs = bool(self._sides)
            if pairs:
                images, texts = (torch.cat(side) for side in zip(*self._sides, strict=True))
                chosen = nearest_captions(images, texts).cpu().int()
            else:
                chosen = torch.cat(self._chosen).cpu().int()
            before = self._before.get(str(task))
            if self.row == 0:
                self._before[str(task)] = chosen
            elif before is not None and len(before) == len(chosen):
                was, is_now = self._compare(task, y, before, chosen, pairs)
                if len(strategy.experience.dataset) == len(y):
                    self._look_at(strategy, _turned(was, is_now), y, before, chosen, pairs)
        self._open()

    def _compare(
        self, task: int, y: torch.Tensor, before: torch.Tensor, after: torch.Tensor, pairs: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the answers of a task that changed, and say which were right and which are."""
        if pairs:
            was, is_now = right_captions(y, before), right_captions(y, after)
            captions = captions_of(y)  # several rows may have one
            moved = captions[before.long()] != captions[after.long()]
        else:
            was, is_now, moved = before == y, after == y, before != after
            for when, chosen in (("before", before), ("after", after)):
                counts = self._counts[when]
                found = torch.unique(torch.stack([y.int(), chosen]), dim=1, return_counts=True)
                for (true, given), number in zip(found[0].T.tolist(), found[1].tolist(), strict=True):
                    counts[true, given] = counts.get((true, given), 0) + number
        other = moved & ~was & ~is_now
        self._changed[task] = [len(y), *(int(of.sum()) for of in (was & ~is_now, ~was & is_now, other))]
        return was, is_now

    def _look_at(
        self,
        strategy: Strategy,
        turned: Iterator[tuple[int, str]],
        y: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        pairs: bool,
    ) -> None:
        """Keep pictures of samples whose answer turned. They are read again: which they are is known when the task is
        over, and a device need not be waited for before."""
        task, dataset = strategy.experience.current_experience, strategy.experience.dataset
        samples = dataset.eval()
        for row, kind in turned:
            there = self._examples.setdefault(task, {}).setdefault(kind, [])
            if len(there) >= self._of_task:
                continue
            words = [
                _caption(dataset, of) if pairs else self._class(of)
                for of in (row if pairs else int(y[row]), int(before[row]), int(after[row]))
            ]
            alike = sum([of["true"], of["before"], of["after"]] == words for of in there)
            if None in words or alike >= _ALIKE or (pixels := _pixels(strategy, samples, row)) is None:
                continue
            true, was, is_now = map(str, words)
            form, text = thumbnail(pixels)
            named = {"task": self._benchmark.task_names[task], "kind": kind}
            told = {"true": true, "before": was, "after": is_now}
            there.append({**named, **told, "form": form, "picture": text})  # type: ignore[typeddict-item]

    def _class(self, y: int) -> str:
        space = self._benchmark.label_space
        return space.class_names[y] if space is not None and 0 <= y < len(space.class_names) else str(y)

    # What was found --------------------------------------------------------------------------------------------------

    def changed(self) -> list[ChangedRecord]:
        """How many answers changed, by task."""
        names = self._benchmark.task_names
        return [
            {"task": names[task], "samples": samples, "lost": lost, "won": won, "otherwise": otherwise}
            for task, (samples, lost, won, otherwise) in sorted(self._changed.items())
        ]

    def examples(self) -> list[ExampleRecord]:
        """Pictures whose answer changed: half of them lost and half won, as far as there are so many, of all tasks in
        turn."""
        return chosen_examples(list(self._in_turn("lost")), list(self._in_turn("won")), self._most)

    def _in_turn(self, kind: str) -> Iterator[ExampleRecord]:
        lists = [of.get(kind, []) for _, of in sorted(self._examples.items())]
        for n in range(max(map(len, lists), default=0)):
            yield from (of[n] for of in lists if n < len(of))

    def confusions(self) -> ConfusionsRecord | None:
        """Which classes are taken for which; None without classes."""
        before, after = self._counts["before"], self._counts["after"]
        if not before:
            return None
        both = {pair: before.get(pair, 0) + after.get(pair, 0) for pair in {**before, **after}}
        classes, _, _, of_all = most_confused(both, MOST_CLASSES)
        samples: dict[int, int] = {}
        for (true, _), number in before.items():
            samples[true] = samples.get(true, 0) + number
        turns = sorted(
            (pair for pair in both if pair[0] != pair[1]),
            key=lambda pair: (-abs(after.get(pair, 0) - before.get(pair, 0)), pair),
        )
        return {
            "classes": [self._class(of) for of in classes],
            "of": of_all,
            "samples": [samples.get(of, 0) for of in classes],
            "before": [[before.get((true, given), 0) for given in classes] for true in classes],
            "after": [[after.get((true, given), 0) for given in classes] for true in classes],
            "turns": [
                {
                    "true": self._class(true),
                    "answer": self._class(given),
                    "samples": samples[true],
                    "before": before.get((true, given), 0),
                    "after": after.get((true, given), 0),
                }
                for true, given in turns[:MOST_TURNS]
                if before.get((true, given), 0) != after.get((true, given), 0)
            ],
        }


def _turned(was: torch.Tensor, is_now: torch.Tensor) -> Iterator[tuple[int, str]]:
    """Rows of which one answer is right and the other is not, and in which way they turned."""
    for row in (was != is_now).nonzero().squeeze(1).tolist():
        yield row, "lost" if was[row] else "won"


def _pixels(strategy: Strategy, samples: Any, row: int) -> torch.Tensor | None:
    """A picture in 8 bits, as the model's transform leaves it; None for what is none, or can be read no more."""
    try:
        x = samples[row][0]
    except (InputError, OSError):
        return None
    image = x.image if isinstance(x, ImageText) else x
    if not torch.is_tensor(image) or image.ndim != 3 or image.shape[0] != 3:
        return None
    return model_of(strategy).transforms.eval.to_uint8(image).cpu()


def _caption(dataset: Any, row: int) -> str | None:
    """The caption of a test pair; None where its data set does not say it, or where its image could not be read
    and another pair took its place."""
    ((source, _, places),) = located(dataset, np.array([row]))
    captions, stand_ins = getattr(source, "captions", None), getattr(source, "stand_ins", None)
    place = int(places[0])
    return None if captions is None or (stand_ins is not None and stand_ins.met[place]) else captions[place]
