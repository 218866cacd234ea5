"""Cross-modal feature drift: how far the features of fixed pairs have moved from the pretrained model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue
from torch.utils.data import Dataset, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.accumulators import SampleColumns
from avalanche_vlm.evaluation.alignment import modality_gap, paired_cosine
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.probes.layers import capturing
from avalanche_vlm.evaluation.probes.quiet import undisturbed
from avalanche_vlm.evaluation.probes.similarity import cross_modal_rsa, linear_cka, rsa
from avalanche_vlm.evaluation.probes.sphere import alignment, uniformity
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.losses.identity import captions_of
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, WORKING, Declared
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import Strategy, model_of

ImageTextSource = ReferencePairs | Dataset
"""Reference pairs, or a data set of ``(ImageText, id)``."""


@dataclass
class PairFeatures:
    """What a model makes of the probe pairs.

    :param images: features of the images ``[N, D]``, of unit length.
    :param texts: features of the texts ``[N, D]``, of unit length.
    :param ids: identities of the pairs ``[N]`` (:mod:`~avalanche_vlm.losses.identity`).
    :param layers: features ``[N, width]`` by block.
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

    ==================  =========================================================  ============  ====================
    curve               what it is                                                 range         falls or rises
    ==================  =========================================================  ============  ====================
    paired cosine       mean cosine of an image and its text                       [-1, 1]       falls with drift
    hit@1               mean of both directions' hit@1                             [0, 1]        falls
    modality gap        distance of the two modalities' means                      [0, 2]        either
    image CKA           debiased linear CKA with row 0                             about [0, 1]  falls
    text CKA            debiased linear CKA with row 0                             about [0, 1]  falls
    RSA                 Spearman of the image-text similarities with row 0         [-1, 1]       falls
    image RSA           Spearman of the image-image similarities with row 0        [-1, 1]       falls
    text RSA            Spearman of the text-text similarities with row 0          [-1, 1]       falls
    alignment           mean squared distance of a pair                            [0, 4]        rises
    uniformity image    log of the mean Gaussian kernel                            [-8, 0]       rises with collapse
    uniformity text     log of the mean Gaussian kernel, every text once           [-8, 0]       rises with collapse
    ==================  =========================================================  ============  ====================

    CKA and the two intra-modal RSA do not see a rotation of one tower's space, which ruins retrieval: that is seen by
    RSA, paired cosine and hit@1 alone.

    Emits ``Drift/<curve>`` and ``Drift/CKA/<block>``.

    :param pairs: held-out captions, reference pairs, or any data set of ``(ImageText, id)``, read under the transforms
        that it has: give an Avalanche data set as ``dataset.eval()``.
    :param max_pairs: number of pairs, 4 or more, drawn once; None takes all.
    :param layers: whether to compare what every block gives, too.
    :param batch_size: pairs that are encoded at a time.
    :param seed: seed of the draw.
    :raises InputError: for a set of class-labelled images, or fewer than 4 pairs.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_reference": KEPT,
        "_rows": WORKING,
        "_layers": WORKING,
        "_hits": WORKING,
    }

    def __init__(
        self,
        pairs: HeldOutSet | ImageTextSource,
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
        n = len(cast("Sized", pairs))
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        if max_pairs is not None:
            chosen = chosen[: whole(max_pairs, 4, "max_pairs")]
        if len(chosen) < 4:
            raise InputError(f"drift is measured on 4 or more pairs, not {n}")
        self.pairs: ImageTextSource = pairs
        self.chosen: list[int] = chosen.sort().values.tolist()
        self.layers, self.batch_size = layers, whole(batch_size, 1, "batch_size")
        self._reference: dict[str, torch.Tensor] = {}
        """Features of row 0: ``images``, ``texts``, and those of the blocks under their names."""
        self._rows: list[dict[str, float]] = []
        """The curves, by step; empty for a step that was not measured."""
        self._layers: list[dict[str, float]] = []
        self._hits: dict[str, torch.Tensor] = {}

    def before_training(self, strategy: Strategy) -> list[MetricValue] | None:
        return self._measure(strategy) if self.step == 0 and not self._reference else None

    def after_eval(self, strategy: Strategy) -> list[MetricValue] | None:
        return None if self.training else self.before_training(strategy)

    def after_training_exp(self, strategy: Strategy) -> list[MetricValue]:
        super().after_training_exp(strategy)
        return self._measure(strategy)

    def result(self) -> dict[str, Any]:
        """``curves``, name to one value per step; ``layers``, ``names`` of the blocks and ``CKA``, one list per step.

        Plain numbers, NaN for what was not measured.
        """
        nan = float("nan")
        rows, layers = (by_step + [{}] * (self.step + 1 - len(by_step)) for by_step in (self._rows, self._layers))
        names = dict.fromkeys(name for row in rows for name in row)
        blocks = dict.fromkeys(name for row in layers for name in row)
        return {
            "curves": {name: [row.get(name, nan) for row in rows] for name in names},
            "layers": {"names": list(blocks), "CKA": [[row.get(name, nan) for name in blocks] for row in layers]},
        }

    def hits(self) -> dict[int, np.ndarray]:
        """By step, float64 ``[2, N]``: which image finds its text first, and which text its image, as
        :func:`~avalanche_vlm.evaluation.retrieval.first_hits` counts them."""
        return {int(step): hits.numpy() for step, hits in self._hits.items()}

    @uncounted()
    @torch.no_grad()
    def _measure(self, strategy: Strategy) -> list[MetricValue]:
        features = encode_probe(model_of(strategy), self.pairs, self.chosen, self.batch_size, self.layers)
        if not self._reference:
            self._reference = {"images": features.images, "texts": features.texts, **features.layers}
        layers = dict(self._reference)
        before = PairFeatures(layers.pop("images"), layers.pop("texts"), features.ids, layers)
        hits = first_hits(features.images, features.texts, features.ids)
        row = {**drift_figures(features, before), "hit@1": float(hits.numpy().mean())}
        alike = {
            block: linear_cka(now, before.layers[block], debiased=True)
            for block, now in features.layers.items()
            if block in before.layers
        }
        for by_step, found in ((self._rows, row), (self._layers, alike)):
            by_step.extend({} for _ in range(len(by_step), self.step + 1))
            by_step[self.step] = found
        self._hits[str(self.step)] = hits
        emitted = {**row, **{f"CKA/{block}": value for block, value in alike.items()}}
        return [MetricValue(self, f"Drift/{name}", value, self.step) for name, value in emitted.items()]


def drift_figures(now: PairFeatures, before: PairFeatures) -> dict[str, float]:
    """The curves of :class:`DriftProbe` at one step, without those that count hits.

    :param now: features of the pairs by the model as it is.
    :param before: features of the same pairs by the pretrained model.
    """
    _, first = np.unique(captions_of(now.ids).cpu().numpy(), return_index=True)
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
    model: VLM, pairs: ImageTextSource, chosen: Sequence[int], batch_size: int = 128, layers: bool = False
) -> PairFeatures:
    """Features of some pairs by the model as it predicts; nothing of it is changed.

    :param model: model to look at, in eval mode meanwhile.
    :param pairs: reference pairs or a data set of ``(ImageText, id)``.
    :param chosen: positions of the pairs that are read.
    :param batch_size: pairs that are encoded at a time.
    :param layers: whether to take the features of every block, too.
    """
    columns = SampleColumns("images", "texts", "ids", sync_on_compute=False)
    by_block: dict[str, list[torch.Tensor]] = {}
    batches = 0
    with undisturbed(model):
        for x, ids in _batches(model, pairs, chosen, batch_size):
            if layers:
                with capturing(model, len(x), x.tokens) as found:
                    columns.update(*encode_pairs(model, x), ids)
                for block, values in found.items():
                    by_block.setdefault(block, []).append(values)
            else:
                columns.update(*encode_pairs(model, x), ids)
            batches += 1
    images, texts, ids = columns.compute()
    whole_blocks = {block: torch.cat(values) for block, values in by_block.items() if len(values) == batches}
    return PairFeatures(images, texts, ids, whole_blocks)


def _batches(
    model: VLM, pairs: ImageTextSource, chosen: Sequence[int], batch_size: int
) -> Iterator[tuple[ImageText, torch.Tensor]]:
    if isinstance(pairs, ReferencePairs):
        identities = pairs.identities()
        for start in range(0, len(chosen), batch_size):
            rows = chosen[start : start + batch_size]
            captions = [pairs.captions[row] for row in rows]
            yield ImageText(pairs.batch(rows), model.tokenizer(captions)).to(model.device), identities[list(rows)]
        return
    for x, ids, *_ in ordered_batches(Subset(pairs, list(chosen)), batch_size):
        if not isinstance(x, ImageText):
            raise InputError(f"drift is measured on image-text pairs, and the data set gives {type(x).__name__}")
        yield x.to(model.device), ids
