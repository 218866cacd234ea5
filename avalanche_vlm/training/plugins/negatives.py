"""Negative texts in the training loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.compat import source_datasets
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.negatives import perturb_captions
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.taps import FeatureTapPlugin
from avalanche_vlm.training.strategies import autocast_of


def negative_text_loss(
    image_features: torch.Tensor,
    true_features: torch.Tensor,
    negative_features: torch.Tensor,
    mask: torch.Tensor,
    scale: torch.Tensor | float,
) -> torch.Tensor:
    """Cross-entropy of each image's own text among the negatives of that text.

    :param image_features: of unit length ``[B, D]``.
    :param true_features: of unit length ``[B, D]``: the text of each image.
    :param negative_features: of unit length ``[B, n, D]``: its negatives.
    :param mask: bool ``[B, n]``: which of them there are.
    :param scale: what similarities are multiplied by. A bias would be the same for all texts and change nothing.
    :return: scalar, the mean over the images that have negatives; 0 if none has.

    >>> image, true = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> negative = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> round(negative_text_loss(image, true, negative, torch.tensor([[False, True]]), 10.0).item(), 4)
    0.6931
    """
    # Products and sums instead of a matrix product: autocast would round the latter, and differences decide.
    own = scale * (image_features * true_features).sum(-1, keepdim=True)
    others = scale * (image_features[:, None] * negative_features).sum(-1)
    logits = torch.cat([own, others.masked_fill(~mask, -torch.inf)], dim=1)
    losses = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")
    return losses.sum() / mask.any(1).sum().clamp(min=1)


class NegativeTextPlugin(FeatureTapPlugin):
    """Let every image prefer its text to the same text with one word changed (after IncCLIP, arXiv 2210.17322).

    On a class-labelled stream the text of an image is its class's first prompt, on an image-text stream its caption.
    Negatives are drawn anew for every minibatch, so nothing is kept but the seed. Images whose text is not known (such
    as replayed pairs of earlier experiences) or has no known word are left out.

    A step costs one pass of the text tower over the distinct texts and negatives of the minibatch, with gradients where
    it trains; the image features are those of the strategy's own forward pass.

    :param model: its tokenizer is used.
    :param alternatives: phrase to what may stand for it, see
        :func:`~avalanche_vlm.memory.negatives.vocabulary_from`. What stands for a phrase should exclude it: a synonym
        would be a negative that is true.
    :param n: negatives per text, at least 1.
    :param weight: of the loss, at least 0.
    :param seed: of the negatives.
    :param captions: caption id (``y``) to text, for image-text data that is not in a
        :class:`~avalanche_vlm.benchmarks.scenario.PairDataset`, or to know those of replayed pairs too; by default the
        captions of the current experience.
    :raises InputError: for a bad setting; in training, if captions are needed and cannot be found.
    """

    supports_distributed = False

    def __init__(
        self,
        model: VLM,
        alternatives: Mapping[str, Sequence[str]],
        *,
        n: int = 4,
        weight: float = 1.0,
        seed: int = 0,
        captions: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        if not any(alternatives.values()):
            raise InputError("negative texts need alternatives, and no phrase has any: see vocabulary_from")
        if n < 1:
            raise InputError(f"the number of negatives is 1 or more, not {n}")
        if weight < 0:
            raise InputError(f"the weight of negative texts is 0 or more, not {weight}")
        self.tokenizer = model.tokenizer
        self.alternatives = alternatives
        self.n, self.weight = n, weight
        self.captions = captions
        self._draws = Draws(seed)
        self._texts: Mapping[int, str] | None = None

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        x, y = strategy.mbatch[:2]
        if self._texts is None:
            self._texts = self._known_texts(strategy, isinstance(x, ImageText))
        ids = [i for i in y.unique().tolist() if i in self._texts]
        texts = [self._texts[i] for i in ids]
        negatives = perturb_captions(texts, self.alternatives, self.n, self._draws.next())
        # By id, the text and its negatives; fewer than n are filled up with the text itself, and masked below.
        rows = {
            i: [text, *others, *[text] * (self.n - len(others))]
            for i, text, others in zip(ids, texts, negatives, strict=True)
            if others
        }
        if not rows:
            return
        tokens = self.tokenizer([text for row in rows.values() for text in row]).to(y.device)
        distinct, inverse = torch.unique(tokens, dim=0, return_inverse=True)
        inverse = inverse.view(len(rows), 1 + self.n)
        position = {i: row for row, i in enumerate(rows)}
        row_of = torch.tensor([position.get(i, -1) for i in y.tolist()], device=y.device)
        has, row_of = row_of >= 0, row_of[row_of >= 0]
        model: VLM = strategy.model
        with autocast_of(strategy):
            features = model.encode_text(distinct)[inverse[row_of]]
        # Compared as tokens: a negative that the tokenizer cannot tell from the text (it cuts long ones) is none.
        mask = (inverse[:, 1:] != inverse[:, :1])[row_of]
        images = self.features.images[has]
        strategy.loss += self.weight * negative_text_loss(images, features[:, 0], features[:, 1:], mask, model.scale)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._texts = None

    def stored(self) -> StoredBytes:
        return StoredBytes()

    def _known_texts(self, strategy: Any, pairs: bool) -> Mapping[int, str]:
        """Texts by class or caption id, for the current experience."""
        experience = strategy.experience
        if self.captions is not None and pairs:
            texts = self.captions
        elif pairs:
            texts = captions_of(experience.dataset)
            if not texts:
                raise InputError(
                    f"the captions of experience {experience.current_experience} cannot be read from its data set: "
                    "give NegativeTextPlugin captions, a dict from caption id (y) to text"
                )
        else:
            texts = {i: prompts[0] for i, prompts in enumerate(strategy.model.label_space.prompts())}
        first = list(texts.values())[:1000]
        if not any(perturb_captions(first, self.alternatives, 1, torch.Generator())):
            warnings.warn(
                f"no negative texts in experience {experience.current_experience}: none of its first {len(first)} "
                f"texts, such as {first[0]!r}, has a phrase with alternatives",
                stacklevel=2,
            )
        return texts


def captions_of(dataset: Any) -> dict[int, str]:
    """Captions by their ids, of all :class:`~avalanche_vlm.benchmarks.scenario.PairDataset` that a data set stands on.

    :param dataset: an experience's, however it was joined and split; of a subset, all captions that it was taken from.
    :return: caption id (``y``) to text; empty if there are none.
    """
    parts = [part for part in source_datasets(dataset) if isinstance(part, PairDataset)]
    return {i: text for part in parts for i, text in zip(part.targets, part.captions, strict=True)}
