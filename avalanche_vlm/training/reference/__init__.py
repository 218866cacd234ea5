"""What student and teachers are compared on: the current batch or task, a user's pairs, texts alone, generated
pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training.reference.base import Inputs, Reference
    from avalanche_vlm.training.reference.current import CurrentBatch, random_sentences
    from avalanche_vlm.training.reference.pairs import ReferenceSet
    from avalanche_vlm.training.reference.synthetic import SyntheticPairs
    from avalanche_vlm.training.reference.task import CurrentTask
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["CurrentBatch", "CurrentTask", "Inputs", "Reference", "ReferenceSet", "SyntheticPairs", "random_sentences"]
