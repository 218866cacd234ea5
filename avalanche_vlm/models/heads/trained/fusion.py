"""Self-attention over one image and what all images share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.memory.rows import whole


class CrossModalFusion(nn.Module):
    """One head of self-attention with a residual and a layer norm, over sequences ``[image, tokens]`` in which the
    tokens are the same for every image (PROOF, Zhou et al., arXiv 2305.19270, eq. 7 and 8).

    Every image makes a version of each token of its own. Since sequences differ in one element, scores among tokens
    are computed once: for a token whose scores have the log-sum Z and gather o, the image's key with the score s and
    value v makes it gather ``g v + (1 - g) o`` with ``g = sigmoid(s - Z)``, which is what a softmax over all gives.

    Differs from the authors' code: the output's projection starts at zero, so that a new fusion normalises and does
    nothing else; there is no dropout.

    :param width: numbers per feature, at least 1.
    :param generator: where the initial weights are drawn from; None for torch's own.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        whole(width, 1, "the width of a fusion")
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, images: torch.Tensor, tokens: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fused images ``[B, D]``, and each image's versions of the first tokens ``[B, n, D]``.

        :param images: image features ``[B, D]``.
        :param tokens: ``[N, D]``, shared by all images.
        :param n: how many of them are wanted.
        """
        root = images.shape[1] ** -0.5
        key, value, query = self.key(tokens), self.value(tokens), root * self.query(tokens[:n])
        own_key, own_value, own_query = self.key(images), self.value(images), root * self.query(images)
        own = (own_query * own_key).sum(1, keepdim=True)
        share = torch.cat([own, own_query @ key.T], 1).softmax(1)
        gathered = share[:, :1] * own_value + share[:, 1:] @ value
        fused = self.norm(images + self.out(gathered))
        scores = query @ key.T
        gate = torch.sigmoid(own_key @ query.T - scores.logsumexp(1))[..., None]
        # The projection goes before the mixture, which has as many rows as images times tokens.
        shared, own_part = F.linear(scores.softmax(1) @ value, self.out.weight), F.linear(own_value, self.out.weight)
        mixed = gate * own_part[:, None] + (1 - gate) * shared
        return fused, self.norm(tokens[:n] + mixed + self.out.bias)
