"""Tasks of the picturebook: an attribute to name, in a style of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from avalanche_vlm.benchmarks.label_space import PromptTemplates
from avalanche_vlm.benchmarks.picturebook import scenes
from avalanche_vlm.benchmarks.picturebook.render import SIDE, Jitter, Look, render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import COLOURS, GROUNDS, LETTERS, OBJECTS, PATTERNS, SHAPES
from avalanche_vlm.benchmarks.picturebook.styles import STYLES
from avalanche_vlm.errors import InputError

_TEMPLATES = {
    "object": ("a {}", "a picture of a {}", "there is a {}"),
    "colour": ("a {} shape", "a picture of a {} shape", "there is a {} shape"),
    "pattern": ("a {} shape", "a picture of a {} shape", "there is a {} shape"),
    "size": ("a {} shape", "a picture of a {} shape", "there is a {} shape"),
    "position": ("a shape {}", "a picture of a shape {}", "there is a shape {}"),
    "ground": ("a shape on a {} ground", "a picture of a shape on a {} ground", "there is a shape on a {} ground"),
}
TEMPLATES = {name: PromptTemplates(f"picturebook-{name}", texts) for name, texts in _TEMPLATES.items()}
"""Prompts per attribute, in the words of the caption grammar."""


@dataclass(frozen=True)
class Task:
    """What to draw and what to name.

    :param name: name of the task, one of its stream's.
    :param classes: each class is a name and the attributes that it fixes (indices).
    :param templates: prompts around the class name.
    :param style: key of :data:`~avalanche_vlm.benchmarks.picturebook.styles.STYLES`.
    :param fixed: attributes that are the same in every picture.
    :param jitter: how much shapes vary in the drawing.
    :param look: parts of the drawing that the style replaces.
    :param turning: another style, and the share of the pictures that have it already, in [0, 1].
    """

    name: str
    classes: tuple[tuple[str, dict[str, int]], ...]
    templates: PromptTemplates
    style: str = "clean"
    fixed: dict[str, int] = field(default_factory=dict)
    jitter: Jitter = field(default_factory=Jitter)
    look: Look = field(default_factory=Look)
    turning: tuple[str, float] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return tuple(name for name, _ in self.classes)

    def draw(self, n: int, seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """``n`` pictures, classes as equal in number as ``n`` allows.

        :param seed: seed of the whole stream; every task and split draws its own numbers from it.
        :param split: ``"train"``, ``"test"``, ...: gives other pictures for the same seed.
        :return: uint8 ``[n, 3, 32, 32]`` and class indices ``[n]``.
        """
        rng = generator(seed, self.name, split)
        labels = rng.permutation(np.arange(n) % len(self.classes))
        fixed: dict[str, int | np.ndarray] = {name: np.full(n, value) for name, value in self.fixed.items()}
        for name in self.classes[0][1]:
            fixed[name] = np.array([attributes[name] for _, attributes in self.classes])[labels]
        # Only shapes carry patterns and outlines: what names no object shows shapes.
        if "object" not in fixed:
            fixed["object"] = rng.integers(0, len(SHAPES), n)
        drawn = scenes.sample_scenes(rng, n, held_out=False, **fixed)
        pictures = render(drawn, rng, self.jitter, self.look)
        styled = STYLES[self.style](pictures, rng)
        if self.turning is not None:
            style, share = self.turning
            turned = rng.random(n) < share
            styled[turned] = STYLES[style](pictures[turned], rng)
        return to_uint8(styled), labels


@dataclass(frozen=True)
class RealDigits:
    """Scikit-learn's 1,797 handwritten digits (8 x 8 pixels, from the UCI repository), enlarged on black."""

    name: str = "digits"
    templates: PromptTemplates = TEMPLATES["object"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return tuple(f"digit {name}" for name in scenes.DIGITS)

    def draw(self, n: int, seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """``n`` pictures. Train and test are disjoint: the last 400 of a permutation by ``seed`` are the test's.

        :param n: number of pictures, at most 400 for the test and 1,397 otherwise.
        :param seed: seed of the whole stream, 0 or more.
        :param split: ``"test"`` for the test's pictures, anything else for the others.
        :return: uint8 ``[n, 3, 32, 32]`` and class indices ``[n]``.
        :raises InputError: if ``n`` exceeds what the split has.
        """
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = generator(seed, self.name, "split").permutation(len(digits.target))
        chosen = order[-400:] if split == "test" else order[:-400]
        if n > len(chosen):
            raise InputError(f"the real digits have {len(chosen)} pictures for {split}, {n} were asked for")
        chosen = chosen[:n]
        small = digits.images[chosen].astype(np.float32) / 16
        # Bilinear enlargement to 24 pixels as a product with one interpolation matrix per axis.
        position = (np.arange(24) + 0.5) / 3 - 0.5
        weights = np.clip(1 - np.abs(np.clip(position, 0, 7)[:, None] - np.arange(8)), 0, 1).astype(np.float32)
        pictures = np.zeros((n, SIDE, SIDE, 3), dtype=np.float32)
        pictures[:, 4:28, 4:28] = np.einsum("yi,nij,xj->nyx", weights, small, weights)[..., None]
        return to_uint8(pictures), digits.target[chosen]


def generator(seed: int, *labels: str) -> np.random.Generator:
    """A random generator of its own for every use of a seed.

    :param seed: seed of the whole stream, 0 or more.
    :param labels: what the generator is for; other labels give other numbers.
    """
    return np.random.default_rng([seed, *(zlib.crc32(label.encode()) for label in labels)])


def classes_by(attribute: str, indices: Iterable[int]) -> tuple[tuple[str, dict[str, int]], ...]:
    """Classes that are told apart by one attribute alone.

    :param attribute: name of the attribute, a key of :data:`~avalanche_vlm.benchmarks.picturebook.scenes.NAMES`.
    :param indices: values of the attribute, one of each class.
    :return: name of each class, with the attribute that it fixes.

    >>> classes_by("size", [0, 2])
    (('small', {'size': 0}), ('large', {'size': 2}))
    """
    return tuple((scenes.NAMES[attribute][i], {attribute: int(i)}) for i in indices)


_FIRST_LETTER = len(OBJECTS) - len(LETTERS)
# Every colour with three shapes and every shape with three colours, so that neither alone gives the class.
_TOY_COLOURS, _TOY_SHAPES = (0, 2, 3, 5, 6, 7), (0, 1, 2, 4, 5, 7)
_TOYS = tuple(
    (f"{COLOURS[c]} {SHAPES[_TOY_SHAPES[(i + k) % 6]]}", {"colour": c, "object": _TOY_SHAPES[(i + k) % 6]})
    for k in range(3)
    for i, c in enumerate(_TOY_COLOURS)
)
_XRAYS = tuple((f"{PATTERNS[p]} {SHAPES[s]}", {"pattern": p, "object": s}) for p in (0, 1, 4) for s in (1, 2, 4, 7, 8))

MTIL_LIKE: tuple[Task | RealDigits, ...] = (
    Task("toys", _TOYS, PromptTemplates("picturebook-toys", _TEMPLATES["object"]), "mosaic"),
    Task("x-rays", _XRAYS, PromptTemplates("picturebook-x-rays", _TEMPLATES["object"]), "negative"),
    Task(
        "sketches",
        classes_by("object", range(len(SHAPES))),
        TEMPLATES["object"],
        "sketch",
        {"ground": 0, "pattern": 0},
        Jitter(angle=0.3, shear=0.2),
        Look(stroke=0.05),
    ),
    RealDigits(),
    Task("night", classes_by("colour", range(len(COLOURS))), TEMPLATES["colour"], "night", {"ground": 1}),
    Task("faded", classes_by("ground", range(len(GROUNDS))), TEMPLATES["ground"], "faded"),
    Task(
        "graffiti",
        classes_by("object", range(_FIRST_LETTER, len(OBJECTS))),
        TEMPLATES["object"],
        "graffiti",
        {"size": 2, "pattern": 0},
        Jitter(angle=0.35, shear=0.4),
    ),
    Task(
        "fabrics",
        classes_by("pattern", range(4)),
        TEMPLATES["pattern"],
        "fabric",
        {},
        look=Look(full_bleed=True, pattern_angle=0.8, pattern_scale=0.3),
    ),
)
"""Eight tasks in the manner of MTIL: different things to name, each in a style that pretraining never saw."""
