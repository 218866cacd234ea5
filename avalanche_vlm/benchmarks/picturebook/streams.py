"""Streams of the picturebook as Avalanche benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from avalanche_vlm.benchmarks.label_space import LabelSpace, Visible, join_tasks
from avalanche_vlm.benchmarks.picturebook import captions, scenes
from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator
from avalanche_vlm.benchmarks.picturebook.render import render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import DIGITS, SHAPES
from avalanche_vlm.benchmarks.picturebook.styles import STYLES
from avalanche_vlm.benchmarks.picturebook.tasks import MTIL_LIKE, TEMPLATES, RealDigits, Task, _by, generator
from avalanche_vlm.benchmarks.picturebook.view import native_tokenizer, native_transform
from avalanche_vlm.benchmarks.scenario import (
    HeldOutSet,
    ImageDataset,
    PairDataset,
    PairTransform,
    ReferencePairs,
    VLMBenchmark,
    as_experience_data,
)
from avalanche_vlm.errors import InputError

DOMAINS = ("sketch", "night", "faded", "mosaic", "negative")
"""Styles of the domain-incremental stream, in order."""
FASHIONS = ("sketch", "night", "negative")
"""Styles of the time-incremental stream, in the order in which they come and go."""


def mtil_like(
    seed: int = 0,
    *,
    n_train: int = 640,
    n_test: int = 250,
    label_space: Visible = "task",
    order: Sequence[str] | None = None,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Eight tasks, each an attribute in a shifted style, real handwritten digits among them.

    :param seed: of the pictures; the same seed gives the same bytes.
    :param n_train: training pictures per task, at most 1,397 (the real digits').
    :param n_test: test pictures per task, at most 400.
    :param label_space: which classes compete: ``"task"`` (MTIL), ``"seen"`` or ``"union"`` (X-TAIL).
    :param order: names of the tasks in the order of the stream, or a part of them.
    :param train_transform: the model's; by default the picturebook's own, which the tiny model shares.
    :param eval_transform: likewise.
    :param tokenizer: the model's, for the held-out captions.
    :param n_held_out: captions in the held-out retrieval set.
    :param n_reference: pairs in the reference set.
    :raises InputError: if ``order`` names a task that does not exist, or one twice.
    """
    tasks = _ordered(MTIL_LIKE, order)
    return _classes(
        "picturebook-mtil", tasks, label_space, seed, (n_train, n_test), (train_transform, eval_transform), tokenizer,
        (n_held_out, n_reference),
    )  # fmt: skip


def class_incremental(
    seed: int = 0,
    *,
    n_experiences: int = 5,
    n_train: int = 640,
    n_test: int = 250,
    label_space: Visible = "seen",
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Twenty objects (shapes and printed digits) as graffiti, some new ones per experience.

    :param n_experiences: a divisor of 20. The other parameters are those of :func:`mtil_like`.
    :raises InputError: if it is not one.
    """
    objects = generator(0, "class order").permutation(len(SHAPES) + len(DIGITS))
    if n_experiences < 1 or len(objects) % n_experiences:
        raise InputError(f"20 classes cannot be split evenly into {n_experiences} experiences")
    parts = objects.reshape(n_experiences, -1)
    tasks = [
        Task(f"objects {i + 1}", _by("object", part), TEMPLATES["object"], "graffiti", {"pattern": 0})
        for i, part in enumerate(parts)
    ]
    return _classes(
        "picturebook-classes", tasks, label_space, seed, (n_train, n_test), (train_transform, eval_transform),
        tokenizer, (n_held_out, n_reference),
    )  # fmt: skip


def domain_incremental(
    seed: int = 0,
    *,
    domains: Sequence[str] = DOMAINS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """The same ten shapes in one style after another.

    :param domains: names of styles. The other parameters are those of :func:`mtil_like`.
    :raises InputError: for an unknown style, or one that comes twice.
    """
    _check_names(domains, STYLES, "style")
    shapes = _by("object", range(len(SHAPES)))
    tasks = [Task(domain, shapes, TEMPLATES["object"], domain) for domain in domains]
    return _classes(
        "picturebook-domains", tasks, "union", seed, (n_train, n_test), (train_transform, eval_transform), tokenizer,
        (n_held_out, n_reference),
    )  # fmt: skip


def time_incremental(
    seed: int = 0,
    *,
    n_experiences: int = 8,
    styles: Sequence[str] = FASHIONS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """The same ten shapes, month after month, while one style slowly gives way to the next: a stream without borders,
    in the manner of TiC-CLIP (arXiv 2310.16226). Every month is a mixture of two styles at most.

    :param n_experiences: months, at least two. The first has the first style alone, the last the last.
    :param styles: their names, two at least. The other parameters are those of :func:`mtil_like`.
    :raises InputError: for an unknown style, one that comes twice, or too few months or styles.
    """
    _check_names(styles, STYLES, "style")
    if n_experiences < 2 or len(styles) < 2:
        raise InputError("a drift over time takes at least two experiences and two styles")
    shapes = _by("object", range(len(SHAPES)))
    tasks = []
    for month in range(n_experiences):
        # Exact arithmetic: a month that has one style alone must not draw a stray picture of another.
        before, rest = divmod(month * (len(styles) - 1), n_experiences - 1)
        turning = (styles[before + 1], rest / (n_experiences - 1)) if rest else None
        tasks.append(Task(f"month {month + 1}", shapes, TEMPLATES["object"], styles[before], turning=turning))
    return _classes(
        "picturebook-time", tasks, "union", seed, (n_train, n_test), (train_transform, eval_transform), tokenizer,
        (n_held_out, n_reference),
    )  # fmt: skip


def pairs(
    seed: int = 0,
    *,
    domains: Sequence[str] = DOMAINS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Fully captioned scenes in one style after another: an image-text stream, scored by retrieval within each task.

    The parameters are those of :func:`domain_incremental`; test captions are distinct.
    """
    _check_names(domains, STYLES, "style")
    model = _defaults(train_transform, eval_transform, tokenizer)
    train, test = [], []
    identities: dict[str, int] = {}
    for domain in domains:
        for split, n, part in (("train", n_train, train), ("test", n_test, test)):
            rng = generator(seed, "pairs", domain, split)
            drawn = scenes.distinct_scenes(rng, n, held_out=split == "test")
            pictures = to_uint8(STYLES[domain](render(drawn, rng), rng))
            data = PairDataset(torch.from_numpy(pictures), captions.caption(drawn), identities)
            part.append(as_experience_data(data, PairTransform(model[0], model[2]), PairTransform(model[1], model[2])))
    return VLMBenchmark(
        "picturebook-pairs",
        "pairs",
        train,
        test,
        task_names=tuple(domains),
        held_out=held_out_sets(seed, n_held_out, model[1], model[2]),
        reference=reference_pairs(seed, n_reference, model[1]),
        generator=PicturebookGenerator(),
        protocol={"seed": seed, "n_train": n_train, "n_test": n_test, "order": list(domains)},
    )


def held_out_sets(seed: int, n: int, transform: Callable, tokenizer: Callable) -> tuple[HeldOutSet, ...]:
    """What no task trains: captions of combinations that pretraining never drew, sizes and positions.

    :param seed: of the pictures.
    :param n: captions in the retrieval set; the attribute sets have half as many pictures.
    """
    rng = generator(seed, "held-out captions")
    drawn = scenes.distinct_scenes(rng, n, held_out=True)
    retrieval = PairDataset(torch.from_numpy(to_uint8(render(drawn, rng))), captions.caption(drawn))
    sets = [HeldOutSet("captions", _Transformed(retrieval, PairTransform(transform, tokenizer)))]
    for name in ("size", "position"):
        task = Task(name, _by(name, range(scenes.CARDINALITY[name])), TEMPLATES[name])
        pictures, labels = task.draw(n // 2, seed, "held-out")
        data = _Transformed(ImageDataset(torch.from_numpy(pictures), labels), transform)
        sets.append(HeldOutSet(name, data, LabelSpace.from_names(task.class_names, task.templates)))
    return tuple(sets)


def reference_pairs(seed: int, n: int, transform: Callable) -> ReferencePairs:
    """Clean pictures with captions of all lengths, from the combinations that pretraining drew from."""
    rng = generator(seed, "reference")
    drawn = scenes.sample_scenes(rng, n)
    texts = captions.caption(drawn, captions.random_mentions(rng, n))
    return ReferencePairs(torch.from_numpy(to_uint8(render(drawn, rng))), tuple(texts), transform)


class _Transformed(torch.utils.data.Dataset):
    """A data set with a transform on its inputs."""

    def __init__(self, dataset: ImageDataset | PairDataset, transform: Callable) -> None:
        self.dataset = dataset
        self.transform = transform
        self.targets = dataset.targets

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple:
        x, y = self.dataset[index]
        return self.transform(x), y


def _classes(
    name: str,
    tasks: Sequence[Task | RealDigits],
    visible: Visible,
    seed: int,
    sizes: tuple[int, int],
    transforms: tuple[Callable | None, Callable | None],
    tokenizer: Callable | None,
    extra: tuple[int, int],
) -> VLMBenchmark:
    space = join_tasks([(t.name, t.class_names, t.templates) for t in tasks], visible)
    train_transform, eval_transform, tokenizer = _defaults(*transforms, tokenizer)
    streams: dict[str, list] = {"train": [], "test": []}
    for t, task in enumerate(tasks):
        ids = np.array(space.tasks[t])
        for split, n in zip(streams, sizes, strict=True):
            pictures, labels = task.draw(n, seed, split)
            data = ImageDataset(torch.from_numpy(pictures), ids[labels])
            task_label = t if space.visible == "task" else 0
            streams[split].append(as_experience_data(data, train_transform, eval_transform, task_label))
    return VLMBenchmark(
        name,
        "classes",
        streams["train"],
        streams["test"],
        label_space=space,
        task_names=[t.name for t in tasks],
        held_out=held_out_sets(seed, extra[0], eval_transform, tokenizer),
        reference=reference_pairs(seed, extra[1], eval_transform),
        generator=PicturebookGenerator(),
        protocol={"seed": seed, "n_train": sizes[0], "n_test": sizes[1], "order": [t.name for t in tasks]},
    )


def _defaults(
    train: Callable | None, evaluate: Callable | None, tokenizer: Callable | None
) -> tuple[Callable, Callable, Callable]:
    """The picturebook's own transform and tokenizer where none is given."""
    evaluate = evaluate or native_transform()
    return train or evaluate, evaluate, tokenizer or native_tokenizer()


def _ordered(tasks: Sequence[Task | RealDigits], order: Sequence[str] | None) -> list[Task | RealDigits]:
    by_name = {task.name: task for task in tasks}
    _check_names(order or (), by_name, "task")
    return [by_name[name] for name in order or by_name]


def _check_names(given: Sequence[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"no {what} is called {name!r}; there are {', '.join(known)}")
        # Seeded by its name, a task that comes twice would bring the very same pictures, test and training alike.
        if list(given).count(name) > 1:
            raise InputError(f"the order names {what} {name!r} more than once")
