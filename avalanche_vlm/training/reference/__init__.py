"""What student and teachers are compared on: the current batch, a user's pairs, texts alone, replayed pictures."""

from avalanche_vlm.training.reference.base import Inputs, Reference
from avalanche_vlm.training.reference.current import CurrentBatch, random_sentences
from avalanche_vlm.training.reference.pairs import ReferenceSet
from avalanche_vlm.training.reference.replayed import ReplayedBatch

__all__ = ["CurrentBatch", "Inputs", "Reference", "ReferenceSet", "ReplayedBatch", "random_sentences"]
