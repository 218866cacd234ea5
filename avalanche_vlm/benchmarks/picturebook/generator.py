"""Pictures of the picturebook's captions: its world model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from avalanche_vlm.benchmarks.picturebook.captions import INTROS, vocabulary
from avalanche_vlm.benchmarks.picturebook.render import SIDE, render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import CARDINALITY, NAMES, SHAPES, Scenes
from avalanche_vlm.benchmarks.picturebook.tasks import generator
from avalanche_vlm.errors import InputError


def _one_of(attribute: str, *more: str) -> str:
    return f"(?P<{attribute}>{'|'.join((*NAMES[attribute], *more))})"


_GRAMMAR = re.compile(
    f"(?:(?:{'|'.join(filter(None, INTROS))}) )?a "
    f"(?:{_one_of('size')} )?(?:{_one_of('pattern')} )?(?:{_one_of('colour')} )?{_one_of('object', 'shape')}"
    f"(?: {_one_of('position')})?(?: on a {_one_of('ground')} ground)?"
)
_INDEX = {attribute: {name: i for i, name in enumerate(names)} for attribute, names in NAMES.items()}
_WORDS = frozenset(vocabulary())

_CANDIDATES = 32
# A caption that names no object says "shape", and only shapes carry patterns and outlines.
_DRAWN_FROM = np.array([{**CARDINALITY, "object": len(SHAPES)}[name] for name in CARDINALITY])


def attributes_of(caption: str) -> dict[str, int]:
    """The attributes that a caption names.

    :param caption: caption of the grammar in :mod:`~avalanche_vlm.benchmarks.picturebook.captions`, in any case.
    :return: attribute to index (into :data:`~avalanche_vlm.benchmarks.picturebook.scenes.NAMES`); what the caption
        does not name is missing.
    :raises InputError: if a word is unknown, or the words are not in the order of the grammar.

    >>> attributes_of("there is a large red star on a navy ground")
    {'size': 2, 'colour': 0, 'object': 4, 'ground': 3}
    """
    words = caption.lower().split()
    found = _GRAMMAR.fullmatch(" ".join(words))
    if found is None:
        unknown = [word for word in words if word not in _WORDS]
        if unknown:
            raise InputError(f"the picturebook has no word {unknown[0]!r}, which the caption {caption!r} uses")
        raise InputError(
            f"the caption {caption!r} is not in the picturebook's order: "
            "a [size] [pattern] [colour] {object or shape} [position] [on a ... ground]"
        )
    named = {attribute: name for attribute, name in found.groupdict().items() if name not in (None, "shape")}
    return {attribute: _INDEX[attribute][name] for attribute, name in named.items()}


class PicturebookGenerator:
    """A :class:`~avalanche_vlm.memory.generators.Generator` that draws clean pictures of picturebook captions.

    What a caption names is drawn as said, and the rest at random. A picture depends on its prompt, the seed and its
    index alone. Where a caption leaves a choice, the combinations that are held out of every training set are avoided;
    one that names a held-out combination in full gets it.
    """

    def __call__(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """Uint8 ``[N, 3, 32, 32]``.

        :param prompts: the N captions to draw.
        :param seed: seed of the pictures, 0 or more.
        :raises InputError: for a caption that is not of the grammar.
        """
        rngs = _generators(prompts, seed)
        scenes = _scenes(prompts, rngs)
        pictures = np.empty((len(prompts), SIDE, SIDE, 3), dtype=np.float32)
        for i, rng in enumerate(rngs):
            pictures[i] = render(scenes[i : i + 1], rng)[0]
        return torch.from_numpy(to_uint8(pictures))

    def scenes(self, prompts: Sequence[str], seed: int) -> Scenes:
        """What the pictures of these prompts show."""
        return _scenes(prompts, _generators(prompts, seed))


def _generators(prompts: Sequence[str], seed: int) -> list[np.random.Generator]:
    if seed < 0:
        raise InputError(f"a seed is a whole number from 0, not {seed}")
    return [generator(seed, prompt, str(i)) for i, prompt in enumerate(prompts)]


def _scenes(prompts: Sequence[str], rngs: Sequence[np.random.Generator]) -> Scenes:
    """The first candidate of every prompt that is not held out, or the first if all are."""
    values = np.empty((len(prompts), _CANDIDATES, len(CARDINALITY)), dtype=np.int64)
    columns = {attribute: i for i, attribute in enumerate(CARDINALITY)}
    for prompt, rng, candidates in zip(prompts, rngs, values, strict=True):
        candidates[:] = rng.integers(0, _DRAWN_FROM, candidates.shape)
        named = attributes_of(prompt)
        for attribute, value in named.items():
            candidates[:, columns[attribute]] = value
        if named.get("object", 0) >= len(SHAPES) and "pattern" not in named:
            candidates[:, columns["pattern"]] = 0  # a pattern makes digits and letters unreadable
    flat = Scenes(**{attribute: values[..., i].reshape(-1) for attribute, i in columns.items()})
    chosen = flat.held_out.reshape(-1, _CANDIDATES).argmin(1)
    return flat[np.arange(len(prompts)) * _CANDIDATES + chosen]
