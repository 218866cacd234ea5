"""What a picturebook picture shows: attributes, their names, and how scenes are sampled."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

SHAPES = (
    "circle",
    "square",
    "triangle",
    "diamond",
    "star",
    "cross",
    "ring",
    "heart",
    "crescent",
    "arrow",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("abcdefghij")
OBJECTS = SHAPES + tuple(f"digit {d}" for d in DIGITS) + tuple(f"letter {c}" for c in LETTERS)
"""Everything that can be drawn, as captions name it. Index ranges: shapes, then digits, then letters."""

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown")
GROUNDS = ("white", "black", "gray", "navy", "sand", "mint", "plum", "sky")
PATTERNS = ("plain", "striped", "dotted", "checkered", "hollow")
SIZES = ("small", "medium", "large")
POSITIONS = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")

CARDINALITY = {
    "object": len(OBJECTS),
    "colour": len(COLOURS),
    "ground": len(GROUNDS),
    "pattern": len(PATTERNS),
    "size": len(SIZES),
    "position": len(POSITIONS),
}
NAMES = {
    "object": OBJECTS,
    "colour": COLOURS,
    "ground": GROUNDS,
    "pattern": PATTERNS,
    "size": SIZES,
    "position": POSITIONS,
}
"""The values of every attribute."""

_FIRST_GLYPH = len(SHAPES)
_HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Scenes:
    """A batch of N scenes: one integer array of length N per attribute (indices into :data:`NAMES`)."""

    object: np.ndarray
    colour: np.ndarray
    ground: np.ndarray
    pattern: np.ndarray
    size: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, index: slice | np.ndarray) -> Scenes:
        """Some of the scenes, in the order of the index."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def is_glyph(self) -> np.ndarray:
        """Bool array ``[N]``: the object is a digit or a letter."""
        return self.object >= _FIRST_GLYPH

    @property
    def code(self) -> np.ndarray:
        """One integer per scene that no other combination of attributes has (mixed radix)."""
        code = np.zeros(len(self), dtype=np.int64)
        for name, size in CARDINALITY.items():
            code = code * size + getattr(self, name)
        return code

    @property
    def held_out(self) -> np.ndarray:
        """Bool array ``[N]``: this combination is kept out of every training and reference set.

        One combination in ten, by a fixed hash (the finaliser of MurmurHash3), so the choice depends on the scene
        alone and never on a seed.
        """
        h = self.code.astype(np.uint32)
        for multiplier in (0x85EBCA6B, 0xC2B2AE35):
            h = (h ^ (h >> np.uint32(15))) * np.uint32(multiplier)
        return (h ^ (h >> np.uint32(16))) % _HELD_OUT_ONE_IN == 0


def sample_scenes(rng: np.random.Generator, n: int, *, held_out: bool = False, **fixed: int | np.ndarray) -> Scenes:
    """Draw ``n`` scenes uniformly over attributes.

    Shapes, digits and letters are drawn in the proportion 2 : 1 : 1. Glyphs are always plain, since a pattern would
    make them unreadable at 32 pixels.

    :param rng: random generator that draws the attributes.
    :param n: number of scenes.
    :param held_out: draw only from the held-out combinations, otherwise only from the others.
    :param fixed: attribute name to an index, or to an array of ``n`` indices, that overrides the drawn value. A
        scene with a fixed attribute may not exist on the asked side of the split; then the other attributes are
        redrawn until it does.
    :raises ValueError: if an attribute is unknown, or so much is fixed that the split cannot be met.
    """
    unknown = set(fixed) - set(CARDINALITY)
    if unknown:
        raise ValueError(f"unknown scene attribute {sorted(unknown)[0]!r}; known are {', '.join(CARDINALITY)}")
    given = {name: np.broadcast_to(np.asarray(value, dtype=np.int64), n) for name, value in fixed.items()}
    scenes = _draw(rng, n, given)
    for _ in range(200):
        (wrong,) = np.nonzero(scenes.held_out != held_out)
        if len(wrong) == 0:
            return scenes
        redrawn = _draw(rng, len(wrong), {name: value[wrong] for name, value in given.items()})
        columns = {f.name: getattr(scenes, f.name).copy() for f in fields(scenes)}
        for name, column in columns.items():
            column[wrong] = getattr(redrawn, name)
        scenes = Scenes(**columns)
    raise ValueError(f"no scenes with {', '.join(fixed)} fixed exist on the held_out={held_out} side of the split")


def distinct_scenes(rng: np.random.Generator, n: int, *, held_out: bool) -> Scenes:
    """Draw ``n`` scenes no two of which have the same attributes.

    :param rng: random generator that draws the attributes.
    :param n: number of scenes.
    :param held_out: draw only from the held-out combinations, otherwise only from the others.
    :raises ValueError: if the world has fewer than ``n`` such scenes.
    """
    pool = sample_scenes(rng, 3 * n, held_out=held_out)
    _, first = np.unique(pool.code, return_index=True)
    if len(first) < n:
        raise ValueError(f"only {len(first)} distinct scenes could be drawn, {n} were asked for")
    return pool[np.sort(rng.permutation(first)[:n])]


def _draw(rng: np.random.Generator, n: int, fixed: dict[str, np.ndarray]) -> Scenes:
    kind = rng.choice(3, size=n, p=(0.5, 0.25, 0.25))
    start = np.array([0, len(SHAPES), len(SHAPES) + len(DIGITS)])[kind]
    count = np.array([len(SHAPES), len(DIGITS), len(LETTERS)])[kind]
    columns = {name: rng.integers(0, size, n) for name, size in CARDINALITY.items()}
    columns["object"] = start + rng.integers(0, 2**31, n) % count
    columns.update({name: value.copy() for name, value in fixed.items()})
    scenes = Scenes(**columns)
    if "pattern" in fixed:
        return scenes
    return replace(scenes, pattern=np.where(scenes.is_glyph, 0, scenes.pattern))
