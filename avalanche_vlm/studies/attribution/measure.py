"""Every intervention on a trained model, scored pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from avalanche_vlm.evaluation.blocks import tower_of
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.losses.identity import alike, with_captions
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.interventions import Interventions
from avalanche_vlm.studies.attribution.maps import linear_map, procrustes
from avalanche_vlm.studies.attribution.probe import ProbePairs
from avalanche_vlm.studies.attribution.rematching import rematch

MAPS = {"rotate": procrustes, "linear": linear_map}
"""From trained features of a tower to pretrained ones: fitted on one half of the pairs, applied to the other."""


@dataclass
class Measured:
    """How right each pair is, in {0, 1/2, 1}, under every intervention: arrays ``[N]``.

    All but ``given`` and ``pretrained_given`` are of the pairs as :func:`rematch` dealt them out.

    :param mismatched: number of pairs that re-matching found clearly wrong.
    :param maps: scores with each tower's features under one of :data:`MAPS`.
    :param blocks: scores with one block put back, by its name.
    :param combined: scores with several blocks put back, by their names.
    :param way_back: scores with all weights this share of the way back; at 1, ``pretrained``.
    """

    given: np.ndarray
    pretrained_given: np.ndarray
    trained: np.ndarray
    pretrained: np.ndarray
    mismatched: int
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    blocks: dict[str, np.ndarray] = field(default_factory=dict)
    combined: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)
    way_back: dict[float, np.ndarray] = field(default_factory=dict)


class Laboratory:
    """Measures a trained model against what it started from, on pairs that neither has seen.

    The pairs are split in halves; each half is scored within itself, with maps fitted on the other. A block of one
    tower needs that tower's features anew, never the other's, and a tower that did not change is never read twice.

    :param model: the trained model, changed only while something is measured.
    :param start: state dict of ``model.clip`` from before.
    :param pairs: the pairs to score, at least 4.
    :param seed: seed of the split in halves, 0 or more.
    """

    def __init__(self, model: VLM, start: Mapping[str, torch.Tensor], pairs: ProbePairs, seed: int = 0) -> None:
        self.interventions = Interventions(model, start)
        self._pairs = pairs
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
        half = len(pairs) // 2
        self._halves = order[:half], order[half:]
        self._trained = pairs.images(model), pairs.texts(model)
        with self.interventions.way_back() as start_model:
            self._pretrained = self._features(start_model, self.interventions.changed_towers)
        self._ids = pairs.ids.to(model.device)
        given = self._score(*self._trained), self._score(*self._pretrained)
        found = rematch(*self._pretrained, self._ids)
        self._order = found.order.to(model.device)
        self._ids = with_captions(self._ids, self._ids[self._order])
        self.measured = Measured(
            *given, self._score(*self._dealt(self._trained)), self._score(*self._dealt(self._pretrained)),
            int(found.wrong.sum()),
        )  # fmt: skip

    @property
    def chance(self) -> float:
        """Mean score of guessing, in [0, 1]: for each pair, the share of its half that has its identity."""
        of_half = [alike(self._ids[rows], self._ids[rows]).double().mean(1) for rows in self._halves]
        return torch.cat(of_half).mean().item()

    def fit_maps(self) -> None:
        """Each tower's features brought back to where the pretrained ones are, as far as a map of each kind can.

        The pairs have no part in the fit, only each side's own features: a map that were fitted to make pairs match
        would teach the model something instead of undoing a change.
        """
        for name, fit in MAPS.items():
            mapped = [self._mapped(*both, fit) for both in zip(self._trained, self._pretrained, strict=True)]
            self.measured.maps[name] = self._score(*self._dealt((mapped[0], mapped[1])))

    def put_back(self, *chosen: str) -> np.ndarray:
        """With these blocks put back."""
        with self.interventions.put_back(chosen) as model:
            return self._score(*self._dealt(self._features(model, {tower_of(block) for block in chosen})))

    def put_back_each(self) -> None:
        """Every block alone. One that training left as it was costs nothing."""
        for block in self.interventions.blocks:
            changed = block in self.interventions.changed
            self.measured.blocks[block] = self.put_back(block) if changed else self.measured.trained

    def combine(self, most: int, candidates: int, enough: Callable[[np.ndarray], bool]) -> None:
        """Add the block that helps most to the best one, until it is enough or there are ``most``.

        :param candidates: how many of the best single blocks to choose from.
        :param enough: whether a score pair by pair needs no more.
        """
        ranked = sorted(
            self.interventions.changed or self.measured.blocks, key=lambda block: -self.measured.blocks[block].mean()
        )[:candidates]
        chosen, score = ranked[:1], self.measured.blocks[ranked[0]]
        while len(chosen) < min(most, len(ranked)) and not enough(score):
            tried = {block: self.put_back(*chosen, block) for block in ranked if block not in chosen}
            best = max(tried, key=lambda block: tried[block].mean())
            chosen, score = [*chosen, best], tried[best]
            self.measured.combined[tuple(chosen)] = score

    def go_back(self, shares: Iterable[float]) -> None:
        """All weights part of the way back."""
        for share in shares:
            with self.interventions.way_back(share) as model:
                self.measured.way_back[share] = self._score(
                    *self._dealt(self._features(model, self.interventions.changed_towers))
                )

    def _features(self, model: VLM, towers: set[str]) -> tuple[torch.Tensor, torch.Tensor]:
        images = self._pairs.images(model) if "image" in towers else self._trained[0]
        return images, self._pairs.texts(model) if "text" in towers else self._trained[1]

    def _dealt(self, features: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return features[0], features[1][self._order]

    def _score(self, images: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
        result = np.empty(len(self._pairs))
        for rows in self._halves:
            result[rows] = first_hits(images[rows], texts[rows], self._ids[rows]).double().mean(0).numpy()
        return result

    def _mapped(self, trained: torch.Tensor, pretrained: torch.Tensor, fit: Callable) -> torch.Tensor:
        mapped = torch.empty(trained.shape, dtype=torch.float64, device=trained.device)
        for fitted, applied in (self._halves, self._halves[::-1]):
            mapped[applied] = trained[applied].double() @ fit(trained[fitted], pretrained[fitted])
        return mapped
