"""What a trained model lost on image-text pairs, against the model that it started from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.losses.identity import alike, with_captions
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.interventions import Interventions
from avalanche_vlm.studies.attribution.part import Features, Fit, LossPart
from avalanche_vlm.studies.attribution.probe import ProbePairs
from avalanche_vlm.studies.attribution.rematching import rematch


class PairPart(LossPart):
    """Pairs that neither the trained model nor the pretrained one has seen.

    They are split in halves; each half is scored within itself, hit@1 as the mean of both directions, with maps fitted
    on the other. Amended are pairs that :func:`~avalanche_vlm.studies.attribution.rematching.rematch` finds clearly
    wrong.

    :param model: the trained model, changed only while something is measured.
    :param start: state dict of ``model.clip`` from before.
    :param pairs: the pairs to score, at least 4.
    :param seed: seed of the split in halves, 0 or more.
    """

    maps = ("rotate", "linear")

    def __init__(self, model: VLM, start: Mapping[str, torch.Tensor], pairs: ProbePairs, seed: int = 0) -> None:
        self._interventions = Interventions(model, start)
        self._pairs = pairs
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
        half = len(pairs) // 2
        self._halves = order[:half], order[half:]
        self._given_ids = self._ids = pairs.ids.to(model.device)
        self._order = torch.arange(len(pairs), device=model.device)
        self.mismatched = 0
        """How many pairs are clearly wrong."""
        super().__init__(model)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def chance(self) -> float:
        """Mean score of guessing, in [0, 1]: for each pair, the share of its half that has its identity."""
        of_half = [alike(self._ids[rows], self._ids[rows]).double().mean(1) for rows in self._halves]
        return torch.cat(of_half).mean().item()

    def opened(self) -> Interventions:
        return self._interventions

    def images(self, model: VLM) -> torch.Tensor:
        return self._pairs.images(model)

    def texts(self, model: VLM) -> torch.Tensor:
        return self._pairs.texts(model)

    def amend(self) -> None:
        found = rematch(*self.reference, self._given_ids)
        self._order = found.order.to(self.model.device)
        self._ids = with_captions(self._given_ids, self._given_ids[self._order])
        self.mismatched = int(found.wrong.sum())

    def score(self, features: Features, given: bool = False) -> np.ndarray:
        images, texts = features
        ids = self._given_ids if given else self._ids
        texts = texts if given else texts[self._order]
        result = np.empty(len(self))
        for rows in self._halves:
            result[rows] = first_hits(images[rows], texts[rows], ids[rows]).double().mean(0).cpu().numpy()
        return result

    def mapped(self, fit: Fit) -> Features:
        """Each tower's features by a map that was fitted on the other half."""
        images, texts = (
            self._mapped(trained, reference, fit) if tower in self.changed_towers else trained
            for tower, trained, reference in zip(("image", "text"), self.trained, self.reference, strict=True)
        )
        return images, texts

    def _mapped(self, trained: torch.Tensor, reference: torch.Tensor, fit: Fit) -> torch.Tensor:
        mapped = torch.empty(trained.shape, dtype=torch.float64, device=trained.device)
        for fitted, applied in (self._halves, self._halves[::-1]):
            mapped[applied] = trained[applied].double() @ fit(trained[fitted], reference[fitted])
        return mapped
