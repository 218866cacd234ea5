"""Pairs read once, and their features in whatever state the model is."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM


class ProbePairs:
    """Transformed images and token ids in memory (0.6 MB per pair at 224 pixels), distinct texts once.

    :param dataset: samples ``(ImageText, identity, ...)``, transformed.
    :param batch_size: images and texts at a time.
    :raises InputError: if there are fewer than 4 pairs, or samples that are no pairs.
    """

    def __init__(self, dataset: Dataset, batch_size: int = 256) -> None:
        images, tokens, ids = [], [], []
        for x, y, *_ in ordered_batches(dataset, batch_size):
            if not isinstance(x, ImageText):
                raise InputError("an attribution needs image-text pairs, and these samples are none")
            images.append(x.image)
            tokens.append(x.tokens)
            ids.append(y)
        if len(images) == 0 or sum(map(len, ids)) < 4:
            raise InputError("an attribution needs at least 4 pairs, half to fit maps and half to score")
        self.ids = torch.cat(ids)
        self._images = images
        distinct, self._text_of_image = torch.unique(torch.cat(tokens), dim=0, return_inverse=True)
        self._tokens = distinct.split(batch_size)

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, model: VLM) -> torch.Tensor:
        """Unit-length image features ``[N, D]``."""
        with model.evaluating():
            return torch.cat([model.encode_image(x.to(model.device)) for x in self._images])

    def texts(self, model: VLM) -> torch.Tensor:
        """Unit-length text features ``[N, D]``, row n the text of image n."""
        with model.evaluating():
            return torch.cat([model.encode_text(x) for x in self._tokens])[self._text_of_image]
