"""Types of options, with the range that each accepts: what a recipe's signature says is what is checked.

A recipe annotates its options with these, with ``Literal`` for names among few, or with ranges of its own:
``Annotated[float, Field(gt=0)]``. A recipe is built from values in range alone, from Python and from a command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

NonNegative = Annotated[float, Field(ge=0)]
"""A factor in a sum of losses, whose term 0 leaves out; a distance."""

Positive = Annotated[float, Field(gt=0)]
"""A temperature, a scale, a rate: nothing to be divided by zero."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, from none to all of it."""

SomeShare = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that is not empty."""

PartialShare = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole that leaves something of it, such as a dropout or a label smoothing."""

Inner = Annotated[float, Field(gt=0, lt=1)]
"""A part of a whole that neither is empty nor takes everything."""

Natural = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of things, 0 for none. Nothing that is counted here (samples, texts, steps) comes in more."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""A number of things of which there is one at least."""

Members = Annotated[int, Field(ge=1, le=1000)]
"""A number of things of which each is made by itself: experts, components of a mixture, tokens of a prompt, blocks."""

Width = Annotated[int, Field(ge=1, le=8192)]
"""A rank, or the width of a layer: no tower has one as wide."""

Bytes = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""What a memory may take."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What random draws follow from; within 32 bits, as scikit-learn has it."""


@dataclass(frozen=True)
class OnThisMachine:
    """Marks an option whose text names a place on the machine that trains: no saved model has a word on it."""


Workplace = Annotated[str, OnThisMachine()]
"""A folder of the machine that trains, empty for none."""

Towers = Literal["both", "image", "text"]
"""The towers that a method changes. One that is frozen in the model before the recipe is built stays frozen."""

TOWERS: dict[Towers, tuple[str, ...]] = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
"""The towers' names, as the model has them."""
