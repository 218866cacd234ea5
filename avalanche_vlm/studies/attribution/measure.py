"""Every intervention on a trained model, scored sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from avalanche_vlm.studies.attribution.maps import linear_map, procrustes
from avalanche_vlm.studies.attribution.part import LossPart, Way

MAPS = {"rotate": procrustes, "linear": linear_map}
"""From trained features of a tower to the reference's."""


@dataclass
class Measured:
    """How right each sample is, in [0, 1], under every intervention: arrays ``[N]``, part after part.

    All but ``given``, ``reference_given`` and ``target`` are scored amended
    (:class:`~avalanche_vlm.studies.attribution.part.LossPart`).

    :param given: scores of the trained model on the samples as they are.
    :param reference_given: scores of the reference weights on the samples as they are.
    :param trained: scores of the trained model.
    :param reference: scores with all weights put back.
    :param target: scores that were there before. They exceed ``reference`` where there is something in the model that
        cannot be put back.
    :param maps: scores with features under one of :data:`MAPS`.
    :param blocks: scores with one block put back, by its name.
    :param combined: scores with several blocks put back, by their names.
    :param way_back: scores with all weights this share of the way back; at 1, ``reference``.
    """

    given: np.ndarray
    reference_given: np.ndarray
    trained: np.ndarray
    reference: np.ndarray
    target: np.ndarray
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    blocks: dict[str, np.ndarray] = field(default_factory=dict)
    combined: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)
    way_back: dict[float, np.ndarray] = field(default_factory=dict)


class Laboratory:
    """Measures a trained model against what it was before.

    A block of one tower needs that tower's features anew, never the other's, and a tower that did not change is never
    read twice.

    :param parts: samples with their references, one or more.
    """

    def __init__(self, parts: Sequence[LossPart]) -> None:
        self._parts = parts
        self.changed = [block for block in parts[0].blocks if any(block in part.changed for part in parts)]
        """The blocks that differ from any reference: only they can have an effect."""
        self.measured = Measured(
            given=np.concatenate([part.trained_scores[0] for part in parts]),
            reference_given=np.concatenate([part.reference_scores[0] for part in parts]),
            trained=np.concatenate([part.trained_scores[1] for part in parts]),
            reference=np.concatenate([part.reference_scores[1] for part in parts]),
            target=np.concatenate([part.target for part in parts]),
        )
        sizes = [len(part) for part in parts]
        self._weights = np.repeat([1 / (n * len(sizes)) for n in sizes], sizes)

    def fit_maps(self) -> None:
        """Features brought back to where the reference's are, as far as a map of each kind can."""
        for name in self._parts[0].maps:
            self.measured.maps[name] = np.concatenate([part.with_map(MAPS[name]) for part in self._parts])

    def put_back_each(self) -> None:
        """Every block alone. One that training left as it was costs nothing."""
        blocks = self._parts[0].blocks
        self.measured.blocks |= dict(zip(blocks, self._scores([(block,) for block in blocks]), strict=True))

    def combine(self, most: int, candidates: int, enough: Callable[[np.ndarray], bool]) -> None:
        """Add the block that helps most to the best one, until it is enough or there are ``most``.

        :param most: number of blocks to combine at most.
        :param candidates: how many of the best single blocks to choose from.
        :param enough: whether a score sample by sample needs no more.
        """
        alone = self.measured.blocks
        ranked = sorted(self.changed or alone, key=lambda block: -self._mean(alone[block]))[:candidates]
        chosen, score = ranked[:1], alone[ranked[0]]
        while len(chosen) < min(most, len(ranked)) and not enough(score):
            ways = [(*chosen, block) for block in ranked if block not in chosen]
            tried = dict(zip(ways, self._scores(ways), strict=True))
            best = max(tried, key=lambda way: self._mean(tried[way]))
            chosen, score = list(best), tried[best]
            self.measured.combined[best] = score

    def go_back(self, shares: Iterable[float]) -> None:
        """All weights part of the way back.

        :param shares: shares of the way, in (0, 1).
        """
        shares = list(shares)
        self.measured.way_back |= dict(zip(shares, self._scores(shares), strict=True))

    def _scores(self, ways: Sequence[Way]) -> list[np.ndarray]:
        of_parts = [part.with_ways(ways) for part in self._parts]
        return [np.concatenate(scores) for scores in zip(*of_parts, strict=True)]

    def _mean(self, scores: np.ndarray) -> float:
        """Mean over parts of the part's mean."""
        return float(self._weights @ scores)
