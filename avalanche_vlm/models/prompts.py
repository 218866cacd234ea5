"""Tokenised texts that stand for something, one or several each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.padding import Padding, padding_before_move, padding_of


@dataclass(frozen=True, eq=False, slots=True)
class Prompts:
    """Groups of tokenised texts: a class's prompts, or a caption by itself.

    :param tokens: int64 ``[P, L]``, group after group.
    :param counts: int64 ``[N]``, the texts of each group, at least 1; on the CPU. None for one each.
    :param padding: the padding of these texts, or of more texts that they are among; None if nobody has read it.

    >>> prompts = Prompts(torch.tensor([[1], [2], [3]]), torch.tensor([2, 1]))
    >>> len(prompts), prompts.of(torch.tensor([1])).tokens.tolist()
    (2, [[3]])
    """

    tokens: torch.Tensor
    counts: torch.Tensor | None = None
    padding: Padding | None = None

    @classmethod
    def tokenized(cls, groups: Sequence[Sequence[str]], tokenizer: Callable[[list[str]], torch.Tensor]) -> Prompts:
        """Of texts."""
        texts = [text for group in groups for text in group]
        tokens = tokenizer(texts) if texts else torch.zeros(0, 0, dtype=torch.long)
        return cls(tokens, torch.tensor([len(group) for group in groups], dtype=torch.long), padding_of(tokens))

    def groups(self) -> list[bytes]:
        """The tokens of each group, as what groups of equal tokens have in common."""
        counts = [1] * len(self) if self.counts is None else self.counts.tolist()
        return [part.cpu().numpy().tobytes() for part in self.tokens.split(counts)] if counts else []

    def __len__(self) -> int:
        return len(self.tokens if self.counts is None else self.counts)

    def of(self, groups: torch.Tensor) -> Prompts:
        """These groups, by their numbers ``[n]`` in ascending order, each once. Their padding is their own where that
        is read without waiting, so that a step is the same whatever else there is."""
        if len(groups) == len(self):
            return self
        groups = on_host(groups)
        if self.counts is None:
            return self._part(self.tokens[to_device(groups, self.tokens.device)], None)
        kept = torch.zeros(len(self.counts), dtype=torch.bool)
        kept[groups] = True
        rows = torch.repeat_interleave(kept, self.counts).nonzero().squeeze(1)
        return self._part(self.tokens[to_device(rows, self.tokens.device)], self.counts[groups])

    def _part(self, tokens: torch.Tensor, counts: torch.Tensor | None) -> Prompts:
        own = self.padding is not None and tokens.device.type == "cpu"
        return Prompts(tokens, counts, padding_of(tokens) if own else self.padding)

    def first(self) -> Prompts:
        """The first text of each group alone.

        >>> Prompts(torch.tensor([[1], [2], [3]]), torch.tensor([2, 1])).first().tokens.tolist()
        [[1], [3]]
        """
        if self.counts is None or len(self.counts) == len(self.tokens):
            return self
        rows = self.counts.cumsum(0) - self.counts
        return self._part(self.tokens[to_device(rows, self.tokens.device)], None)

    def to(self, device: torch.device) -> Prompts:
        """The same with the tokens on a device."""
        return Prompts(
            to_device(self.tokens, torch.device(device)),
            self.counts,
            padding_before_move(self.tokens, torch.device(device), self.padding),
        )

    def encode(self, encoder: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Unit-length features ``[N, D]``: of a group, the normalised mean (CLIP's prompt ensemble, arXiv 2103.00020,
        section 3.1.4). Texts of equal tokens are encoded once where they lie on the CPU, as class prompts do.

        :param encoder: token ids ``[P, L]`` to unit-length features ``[P, D]``; takes ``padding`` as well, a
            :class:`~avalanche_vlm.benchmarks.padding.Padding`, where it is known.
        """
        tokens, own = self.tokens, None
        if tokens.device.type == "cpu":  # an accelerator would have to be waited for
            distinct, places = torch.unique(tokens, dim=0, return_inverse=True)
            if len(distinct) < len(tokens):
                tokens, own = distinct, places
        features = encoder(tokens) if self.padding is None else encoder(tokens, padding=self.padding)
        if own is not None:
            features = features[to_device(own, features.device)]
        if self.counts is None or len(self.counts) == len(self.tokens):
            return features
        owner = to_device(torch.repeat_interleave(torch.arange(len(self)), self.counts), features.device)
        summed = features.new_zeros(len(self), features.shape[1]).index_add_(0, owner, features)
        return F.normalize(summed, dim=-1)
