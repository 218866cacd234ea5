"""The caption grammar of the picturebook.

``[intro] a [size] [pattern] [colour] {object} [position] [on a ground ground]``: every bracketed part may be left out,
and a scene whose object is left out is called a *shape*.
"""

from __future__ import annotations

import numpy as np

from avalanche_vlm.benchmarks.picturebook.scenes import (
    COLOURS,
    GROUNDS,
    OBJECTS,
    PATTERNS,
    POSITIONS,
    SIZES,
    Scenes,
)

INTROS = ("", "a picture of", "there is")
"""How a caption may begin."""
ATTRIBUTES = ("object", "colour", "ground", "pattern", "size", "position")
"""What a caption may mention."""


def caption(
    scenes: Scenes,
    keep: np.ndarray | None = None,
    intro: np.ndarray | None = None,
) -> list[str]:
    """One caption per scene.

    :param scenes: the N scenes to describe.
    :param keep: bool array ``[N, 6]``, columns as :data:`ATTRIBUTES`: which attributes the caption mentions. All by
        default.
    :param intro: index array ``[N]`` into :data:`INTROS`; none by default.
    """
    n = len(scenes)
    keep = np.ones((n, len(ATTRIBUTES)), dtype=bool) if keep is None else keep
    intro = np.zeros(n, dtype=int) if intro is None else intro
    texts = []
    for i in range(n):
        has = dict(zip(ATTRIBUTES, keep[i], strict=True))
        words = [INTROS[intro[i]], "a"]
        if has["size"]:
            words.append(SIZES[scenes.size[i]])
        if has["pattern"]:
            words.append(PATTERNS[scenes.pattern[i]])
        if has["colour"]:
            words.append(COLOURS[scenes.colour[i]])
        words.append(OBJECTS[scenes.object[i]] if has["object"] else "shape")
        if has["position"]:
            words.append(POSITIONS[scenes.position[i]])
        if has["ground"]:
            words += ["on a", GROUNDS[scenes.ground[i]], "ground"]
        texts.append(" ".join(w for w in words if w))
    return texts


def random_mentions(rng: np.random.Generator, n: int, full: float = 0.35, single: float = 0.4) -> np.ndarray:
    """Which attributes ``n`` captions mention: bool ``[n, 6]``, columns as :data:`ATTRIBUTES`.

    Captions name the object more often than anything else, as people do.

    :param rng: random generator that draws the mentions.
    :param n: number of captions.
    :param full: share of captions that mention everything, in [0, 1].
    :param single: share of captions that mention one attribute, half of them the object; the rest mention a
        random part.
    """
    often = np.array([0.8, 0.5, 0.5, 0.5, 0.5, 0.5])
    keep = rng.random((n, len(ATTRIBUTES))) < often
    kind = rng.random(n)
    # A caption says something: what would be empty mentions one attribute too.
    one = (kind >= 1 - single) | ~keep.any(axis=1)
    keep[one] = np.eye(len(ATTRIBUTES), dtype=bool)[
        rng.choice(len(ATTRIBUTES), int(one.sum()), p=(0.5, 0.1, 0.1, 0.1, 0.1, 0.1))
    ]
    keep[kind < full] = True
    return keep


def true_of(scenes: Scenes, mentions: np.ndarray) -> np.ndarray:
    """Bool ``[N, N]``: scene i (row) is what caption j (column) says, given the attributes that caption mentions."""
    matches = np.ones((len(scenes), len(scenes)), dtype=bool)
    for column, name in enumerate(ATTRIBUTES):
        value = getattr(scenes, name)
        matches &= (value[:, None] == value[None, :]) | ~mentions[None, :, column]
    return matches


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    sources = (*INTROS, "a on ground shape", *OBJECTS, *COLOURS, *GROUNDS, *PATTERNS, *SIZES, *POSITIONS)
    return sorted({word for text in sources for word in text.split()})
