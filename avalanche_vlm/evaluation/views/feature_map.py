"""How features of images and texts move over a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import VLMBenchmark, size_of
from avalanche_vlm.evaluation.tracked import TrackedMetric
from avalanche_vlm.evaluation.views.plane import principal_plane
from avalanche_vlm.evaluation.views.records import MOST_POINTS, MOST_STEPS, MapRecord
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.protocol import Strategy, model_of

_PLACES = 4


class FeatureMap(TrackedMetric):
    """Features of a stream's test images and of their texts at some steps, as the evaluation has encoded them: of
    classes the means over their test images and the prompts, of pairs single ones. Emits nothing.

    The points are the first classes, or pairs, of every task in turn; the steps are the first, the last and some at
    equal distances between them.

    :param benchmark: the stream whose test samples are encoded.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_steps": WORKING,
        "_sums": TRANSIENT,
        "_heard": TRANSIENT,
        "_seen": TRANSIENT,
        "_reading": TRANSIENT,
    }

    def __init__(self, benchmark: VLMBenchmark) -> None:
        super().__init__()
        self._benchmark = benchmark
        self._points = list(_points(benchmark))
        last = len(benchmark.train_stream)
        number = min(last + 1, MOST_STEPS)
        self._chosen = {round(last * n / max(1, number - 1)) for n in range(number)}
        self._steps: dict[str, torch.Tensor] = {}
        """By step unit-length features ``[2, points, D]`` of images and texts, NaN where nothing was measured."""
        self._sums: torch.Tensor | None = None
        """``[2, points, D + 1]``, the numbers of samples behind."""
        self._heard: list[ForwardFeatures] = []
        self._seen = 0
        self._reading = False

    def before_eval(self, strategy: Strategy) -> None:
        super().before_eval(strategy)
        self._forget(strategy)
        self._sums = None

    def before_eval_exp(self, strategy: Strategy) -> None:
        self._seen = 0
        trained = strategy.experience.origin_stream.name == "test"
        self._reading = trained and self.row in self._chosen and bool(self._points)

    def before_eval_forward(self, strategy: Strategy) -> None:
        if self._reading:
            self._heard = []
            model_of(strategy).taps.append(self._hear)

    def after_eval_forward(self, strategy: Strategy) -> None:
        self._forget(strategy, heard=False)

    def after_eval_iteration(self, strategy: Strategy) -> None:
        if not self._reading:
            return
        task, y = strategy.experience.current_experience, strategy.mb_y
        for heard in self._heard:
            if isinstance(strategy.mb_x, ImageText):
                self._add_pairs(task, heard)
            elif y.ndim == 1:
                self._add_classes(task, y if heard.rows is None else y[heard.rows], heard)
        self._heard, self._seen = [], self._seen + len(y)

    def after_eval(self, strategy: Strategy) -> None:
        if self._sums is not None:
            sums = self._sums.cpu()
            mean = sums[..., :-1] / sums[..., -1:]  # NaN of nothing
            self._steps[str(self.row)] = F.normalize(mean, dim=-1)
        self._sums = None

    def _hear(self, features: ForwardFeatures) -> None:
        self._heard.append(features)

    def _forget(self, strategy: Strategy, heard: bool = True) -> None:
        taps = model_of(strategy).taps
        if self._hear in taps:  # still there after a pass that raised
            taps.remove(self._hear)
        if heard:
            self._heard = []

    def _add_classes(self, task: int, y: torch.Tensor, heard: ForwardFeatures) -> None:
        numbers = {cls: n for n, (of, cls) in enumerate(self._points) if of == task}
        for cls, number in numbers.items():
            rows = (y == cls).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            images = heard.images[to_device(rows, heard.images.device)]
            text = None
            if heard.texts is not None and heard.classes is not None:
                at = (heard.classes == cls).nonzero().squeeze(1)
                text = heard.texts[at].expand(len(rows), -1) if len(at) else None
            self._add(number, images, text)

    def _add_pairs(self, task: int, heard: ForwardFeatures) -> None:
        if heard.texts is None or heard.text_of_image is None:
            return
        for number, (of, position) in enumerate(self._points):
            row = position - self._seen
            if of == task and 0 <= row < len(heard.images):
                self._add(number, heard.images[row, None], heard.texts[heard.text_of_image[row, None]])

    def _add(self, number: int, images: torch.Tensor, texts: torch.Tensor | None) -> None:
        """Further features of a point, each ``[n, D]``."""
        for side, features in enumerate((images, texts)):
            if features is not None:
                if self._sums is None:
                    shape = 2, len(self._points), features.shape[1] + 1
                    self._sums = torch.zeros(shape, device=features.device)
                self._sums[side, number, :-1] += features.detach().float().sum(0)
                self._sums[side, number, -1] += len(features)

    def as_json(self) -> MapRecord | None:
        """The map in plain JSON types; None where too little was measured."""
        steps = sorted(self._steps, key=int)
        if len(steps) < 2 or len({self._steps[step].shape[-1] for step in steps}) != 1:
            return None
        features = torch.stack([self._steps[step] for step in steps])  # [steps, 2, points, D]
        known = features.isfinite().all(-1)
        if int(known.sum()) < 3:
            return None
        placed, share = principal_plane(features[known])
        places = torch.full((*known.shape, 2), torch.nan, dtype=torch.float64)
        places[known] = placed
        moved = 1 - (features[0].double() * features[-1].double()).sum(-1)
        names = self._benchmark.task_names
        return {
            "kind": "classes" if self._benchmark.kind == "classes" else "pairs",
            "points": [
                {
                    "task": names[task],
                    "name": self._named(which),
                    "image_moved": _number(moved[0, number]),
                    "text_moved": _number(moved[1, number]),
                }
                for number, (task, which) in enumerate(self._points)
            ],
            "steps": [int(step) for step in steps],
            "images": [list(map(_place, of_step[0])) for of_step in places],
            "texts": [list(map(_place, of_step[1])) for of_step in places],
            "share": round(share, _PLACES),
        }

    def _named(self, which: int) -> str:
        """A class by its name, a pair by its number: its caption is the user's."""
        space = self._benchmark.label_space
        return f"pair {which + 1}" if space is None else space.class_names[which]


def _points(benchmark: VLMBenchmark) -> Iterator[tuple[int, int]]:
    """Task, and class or place of a pair, of every point."""
    if benchmark.label_space is None:
        of_tasks: list[list[int]] = [list(range(size_of(e.dataset)))[:MOST_POINTS] for e in benchmark.test_stream]
    else:
        of_tasks = [classes_of(experience)[:MOST_POINTS] for experience in benchmark.test_stream]
    turn = [(task, of[n]) for n in range(MOST_POINTS) for task, of in enumerate(of_tasks) if n < len(of)]
    yield from sorted(turn[:MOST_POINTS])


def _place(at: torch.Tensor) -> Any:
    found = [_number(value) for value in at]
    return None if None in found else found


def _number(value: torch.Tensor) -> float | None:
    return round(float(value), _PLACES) + 0.0 if bool(value.isfinite()) else None
