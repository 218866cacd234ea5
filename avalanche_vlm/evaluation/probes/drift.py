"""Cross-modal feature drift: how far the features of fixed pairs have moved from the pretrained model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue
from torch.utils.data import DataLoader, Dataset, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.probes.layers import capturing
from avalanche_vlm.evaluation.probes.quiet import model_of, undisturbed
from avalanche_vlm.evaluation.probes.similarity import cross_modal_rsa, linear_cka, rsa
from avalanche_vlm.evaluation.probes.sphere import alignment, uniformity
from avalanche_vlm.evaluation.retrieval import first_hits, modality_gap, paired_cosine
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models import VLM

Pairs = HeldOutSet | ReferencePairs | Dataset


@dataclass
class PairFeatures:
    """What a model makes of the probe pairs.

    :param images: of unit length ``[N, D]``.
    :param texts: of unit length ``[N, D]``.
    :param ids: ``[N]``; equal ones match.
    :param layers: by block, ``[N, width]``.
    """

    images: torch.Tensor
    texts: torch.Tensor
    ids: torch.Tensor
    layers: dict[str, torch.Tensor] = field(default_factory=dict)


class DriftProbe(VLMMetric):
    """Follow the features of fixed image-text pairs through a stream.

    Row 0 is the model before any training, at the first evaluation or else when training starts, and what later rows
    are compared with; every trained experience adds a row, when the strategy's plugins have ended it. All figures are
    of the model as it predicts, in eval mode; training goes on as if nobody had looked.

    ==================  =========================================================  ===========  ====================
    curve               what it is                                                 range        falls or rises
    ==================  =========================================================  ===========  ====================
    paired cosine       mean cosine of an image and its text                       [-1, 1]      falls with drift
    hit@1               mean of both directions' hit@1                             [0, 1]       falls
    modality gap        distance of the two modalities' means                      [0, 2]       either
    image CKA           debiased linear CKA with row 0                             about [0, 1] falls
    text CKA            likewise                                                   about [0, 1] falls
    RSA                 Spearman of the image-text similarities with row 0         [-1, 1]      falls
    image RSA           Spearman of the image-image similarities with row 0        [-1, 1]      falls
    text RSA            likewise of the texts                                      [-1, 1]      falls
    alignment           mean squared distance of a pair                            [0, 4]       rises
    uniformity image    log of the mean Gaussian kernel                            [-8, 0]      rises with collapse
    uniformity text     likewise, every text once                                  [-8, 0]      rises with collapse
    ==================  =========================================================  ===========  ====================

    CKA and the two intra-modal RSA do not see a rotation of one tower's space, which ruins retrieval: that is seen by
    RSA, paired cosine and hit@1 alone.

    Emits ``Drift/<curve>`` and ``Drift/CKA/<block>``.

    :param pairs: held-out captions, reference pairs, or any data set of ``(ImageText, id)``, read under the transforms
        that it has: give an Avalanche data set as ``dataset.eval()``.
    :param max_pairs: how many of them, drawn once; None takes all. At least 4.
    :param layers: also compare what every block gives.
    :param batch_size: pairs at a time.
    :param seed: of the draw.
    :raises InputError: for a set of class-labelled images, or fewer than 4 pairs.
    """

    def __init__(
        self,
        pairs: Pairs,
        max_pairs: int | None = 128,
        layers: bool = True,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(pairs, HeldOutSet):
            if pairs.label_space is not None:
                raise InputError(f"drift is measured on image-text pairs, and {pairs.name} has class-labelled images")
            pairs = pairs.dataset
        n = len(pairs)
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        if max_pairs is not None:
            chosen = chosen[: whole(max_pairs, 4, "max_pairs")]
        if len(chosen) < 4:
            raise InputError(f"drift is measured on 4 or more pairs, not {n}")
        self.pairs, self.chosen = pairs, chosen.sort().values.tolist()
        self.layers, self.batch_size = layers, whole(batch_size, 1, "batch_size")
        self.reference: PairFeatures | None = None
        self._rows: dict[int, dict[str, float]] = {}
        self._layers: dict[int, dict[str, float]] = {}
        self._hits: dict[int, np.ndarray] = {}

    def before_training(self, strategy: Any) -> list[MetricValue] | None:
        return self._measure(strategy) if self.step == 0 and self.reference is None else None

    def after_eval(self, strategy: Any) -> list[MetricValue] | None:
        return None if self.training else self.before_training(strategy)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        super().after_training_exp(strategy)
        return self._measure(strategy)

    def result(self) -> dict[str, Any]:
        """``curves``, name to one value per step; ``layers``, ``names`` of the blocks and ``CKA``, one list per step.

        Plain numbers, NaN for what was not measured.
        """
        steps = range(self.step + 1)
        names = dict.fromkeys(name for row in self._rows.values() for name in row)
        blocks = dict.fromkeys(name for row in self._layers.values() for name in row)
        nan = float("nan")
        return {
            "curves": {name: [self._rows.get(step, {}).get(name, nan) for step in steps] for name in names},
            "layers": {
                "names": list(blocks),
                "CKA": [[self._layers.get(step, {}).get(name, nan) for name in blocks] for step in steps],
            },
        }

    def hits(self) -> dict[int, np.ndarray]:
        """By step, bool ``[2, N]``: which image finds its text first, and which text its image."""
        return dict(self._hits)

    def stored(self) -> StoredBytes:
        """The features of row 0; the pairs themselves are the caller's."""
        kept = self.reference
        return StoredBytes(ram=0 if kept is None else tensor_bytes([kept.images, kept.texts, *kept.layers.values()]))

    @uncounted()
    @torch.no_grad()
    def _measure(self, strategy: Any) -> list[MetricValue]:
        features = encode_probe(model_of(strategy), self.pairs, self.chosen, self.batch_size, self.layers)
        if self.reference is None:
            self.reference = features
        before = self.reference
        hits = first_hits(features.images, features.texts, features.ids).numpy()
        row = {**drift_figures(features, before), "hit@1": float(hits.mean())}
        layers = {
            block: linear_cka(now, before.layers[block], debiased=True)
            for block, now in features.layers.items()
            if block in before.layers
        }
        self._rows[self.step], self._layers[self.step], self._hits[self.step] = row, layers, hits
        emitted = {**row, **{f"CKA/{block}": value for block, value in layers.items()}}
        return [MetricValue(self, f"Drift/{name}", value, self.step) for name, value in emitted.items()]

    def __str__(self) -> str:
        return "DriftProbe"


def drift_figures(now: PairFeatures, before: PairFeatures) -> dict[str, float]:
    """The curves of :class:`DriftProbe` at one step, without those that count hits.

    :param now: features of the pairs.
    :param before: those of the same pairs by the pretrained model.
    """
    _, first = np.unique(now.ids.cpu().numpy(), return_index=True)
    distinct = torch.as_tensor(first, device=now.texts.device)
    nan = float("nan")
    return {
        "paired cosine": paired_cosine(now.images, now.texts),
        "modality gap": modality_gap(now.images, now.texts),
        "image CKA": linear_cka(now.images, before.images, debiased=True),
        "text CKA": linear_cka(now.texts, before.texts, debiased=True),
        "RSA": cross_modal_rsa(now.images, now.texts, before.images, before.texts),
        "image RSA": rsa(now.images, before.images),
        "text RSA": rsa(now.texts, before.texts),
        "alignment": alignment(now.images, now.texts),
        "uniformity image": uniformity(now.images),
        "uniformity text": uniformity(now.texts[distinct]) if len(distinct) > 1 else nan,
    }


@torch.no_grad()
def encode_probe(
    model: VLM, pairs: Pairs, chosen: Sequence[int], batch_size: int = 128, layers: bool = False
) -> PairFeatures:
    """Features of some pairs by the model as it predicts; nothing of it is changed.

    :param pairs: reference pairs or a data set of ``(ImageText, id)``.
    :param chosen: which of them.
    :param layers: also those of every block.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    by_block: dict[str, list[torch.Tensor]] = {}
    with undisturbed(model):
        for x, ids in _batches(model, pairs, chosen, batch_size):
            if layers:
                with capturing(model, len(x), x.tokens) as found:
                    parts.append((model.encode_image(x.image), model.encode_text(x.tokens), ids))
                for block, values in found.items():
                    by_block.setdefault(block, []).append(values)
            else:
                parts.append((model.encode_image(x.image), model.encode_text(x.tokens), ids))
    images, texts, ids = (torch.cat(column) for column in zip(*parts, strict=True))
    whole_blocks = {block: torch.cat(values) for block, values in by_block.items() if len(values) == len(parts)}
    return PairFeatures(images, texts, ids, whole_blocks)


def _batches(
    model: VLM, pairs: Pairs, chosen: Sequence[int], batch_size: int
) -> Iterator[tuple[ImageText, torch.Tensor]]:
    if isinstance(pairs, ReferencePairs):
        identities: dict[str, int] = {}
        for start in range(0, len(chosen), batch_size):
            rows = chosen[start : start + batch_size]
            captions = [pairs.captions[row] for row in rows]
            ids = torch.tensor([identities.setdefault(caption, len(identities)) for caption in captions])
            yield ImageText(pairs.batch(rows).to(model.device), model.tokenize(captions)), ids
        return
    for x, ids, *_ in DataLoader(Subset(pairs, list(chosen)), batch_size):
        if not isinstance(x, ImageText):
            raise InputError(f"drift is measured on image-text pairs, and the data set gives {type(x).__name__}")
        yield x.to(model.device), ids
