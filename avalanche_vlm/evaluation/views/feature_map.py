"""How features of images and texts move over a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import VLMBenchmark, size_of
from avalanche_vlm.evaluation.cells import tasks_measured
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

    The points are the first classes, or pairs, of every task in turn; the steps are the first, the last and some
    between them, of those that are evaluated at equal distances.

    :param benchmark: the stream whose test samples are encoded.
    :param chosen: tasks that are evaluated: ``"all"``, ``"seen"`` or ``"last"``.
    :param every: number of experiences from one evaluation to the next.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_steps": WORKING,
        "_sums": TRANSIENT,
        "_heard": TRANSIENT,
        "_seen": TRANSIENT,
        "_reading": TRANSIENT,
    }

    def __init__(self, benchmark: VLMBenchmark, chosen: str = "all", every: int = 1) -> None:
        super().__init__()
        self._benchmark = benchmark
        self._points = list(_points(benchmark))
        last = len(benchmark.train_stream)
        rows = [row for row in range(last + 1) if tasks_measured(row, last, chosen, every)]
        number = min(len(rows), MOST_STEPS)
        self._chosen = {rows[round((len(rows) - 1) * n / max(1, number - 1))] for n in range(number)}
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
                self._add_classes(task, _of_rows(on_host(y), heard.rows), heard)
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
        """Images of a task, whose classes are on the CPU, and these classes' texts."""
        numbers = {cls: n for n, (of, cls) in enumerate(self._points) if of == task}
        wanted = [(row, cls) for row, cls in enumerate(y.tolist()) if cls in numbers]
        self._add(0, heard.images, [row for row, _ in wanted], [numbers[cls] for _, cls in wanted])
        if heard.texts is not None and heard.classes is not None:
            place = {cls: at for at, cls in enumerate(on_host(heard.classes).tolist())}
            told = [cls for _, cls in wanted if cls in place]
            self._add(1, heard.texts, [place[cls] for cls in told], [numbers[cls] for cls in told])

    def _add_pairs(self, task: int, heard: ForwardFeatures) -> None:
        if heard.texts is None or heard.text_of_image is None:
            return
        places = [(position - self._seen, n) for n, (of, position) in enumerate(self._points) if of == task]
        wanted = [(row, n) for row, n in places if 0 <= row < len(heard.images)]
        rows, numbers = [row for row, _ in wanted], [n for _, n in wanted]
        self._add(0, heard.images, rows, numbers)
        self._add(1, heard.texts, on_host(heard.text_of_image)[rows].tolist() if rows else [], numbers)

    def _add(self, side: int, features: torch.Tensor, rows: list[int], numbers: list[int]) -> None:
        """Rows of features, each to the point with its number."""
        if not rows:
            return
        device = features.device
        if self._sums is None:
            self._sums = torch.zeros(2, len(self._points), features.shape[1] + 1, device=device)
        at, into = (to_device(torch.tensor(of), device) for of in (rows, numbers))
        further = F.pad(features.detach().index_select(0, at).float(), (0, 1), value=1.0)
        self._sums[side].index_add_(0, into, further)

    def as_json(self) -> MapRecord | None:
        """The map in plain JSON types; None where too little was measured, or not the pretrained model, as in a run
        that goes on from what has not watched it."""
        steps = sorted(self._steps, key=int)
        if len(steps) < 2 or steps[0] != "0" or len({self._steps[step].shape[-1] for step in steps}) != 1:
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


def _of_rows(y: torch.Tensor, rows: Any) -> torch.Tensor:
    if rows is None:
        return y
    return y[rows if isinstance(rows, slice) else on_host(rows)]


def _place(at: torch.Tensor) -> Any:
    found = [_number(value) for value in at]
    return None if None in found else found


def _number(value: torch.Tensor) -> float | None:
    return round(float(value), _PLACES) + 0.0 if bool(value.isfinite()) else None
