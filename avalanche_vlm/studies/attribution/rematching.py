"""Which pairs are no pairs, as a pure function on features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from avalanche_vlm.losses.identity import alike


class Rematch(NamedTuple):
    """:func:`rematch`'s result.

    :param order: ``[N]``: image n's text is ``texts[order[n]]``.
    :param wrong: ``[N]``, whether that is another text than the given one.
    """

    order: torch.Tensor
    wrong: torch.Tensor


@torch.no_grad()
def rematch(
    images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor, near: float = 0.05, doubt: float = 0.01
) -> Rematch:
    """Give images back the texts that a model is sure belong to them, where the given ones are clearly wrong.

    A model that errs must not pass for mismatched pairs, so a mistake is not enough. A pair is clearly wrong only if

    - its text is not among the first ``near`` of all texts for its image, nor its image for its text: a mistake among
      similar ones stays near the top, a text of another picture lands anywhere; and
    - its image and another text find each other first, and are more alike than chance makes them: than all but
      ``doubt`` of the images are to their first text when all images are rotated at random (about their mean), which
      leaves each side as it is and what they have to do with each other to chance.

    The texts of these pairs, and of those whose text such an image asks for and whose own image does not, are dealt out
    anew with the largest sum of similarities (linear assignment).

    :param images: ``[N, D]``, of the pretrained model; normalised here.
    :param texts: ``[N, D]``, row n the text given to image n.
    :param ids: identities of the pairs ``[N]``; texts of one image, and equal ones, count as its own.
    :param near: share of the texts, in (0, 1).
    :param doubt: share of the images, in (0, 1).

    >>> found = rematch(torch.eye(30), torch.eye(30)[[1, 0, *range(2, 30)]], torch.arange(30))
    >>> found.order.tolist()[:3], int(found.wrong.sum())
    ([1, 0, 2], 2)
    """
    from scipy.optimize import linear_sum_assignment

    images, texts = F.normalize(images.double(), dim=1).cpu(), F.normalize(texts.double(), dim=1).cpu()
    similarity, ids = images @ texts.T, ids.cpu()
    own, every = alike(ids, ids), torch.arange(len(ids))
    order = every.clone()
    given, (best, text) = similarity.diagonal(), similarity.max(1)
    # A text that occurs m times has m images: being among its first m is being its first.
    places = own.sum(0, keepdim=True) - 1
    last_place = similarity.sort(0, descending=True).values.gather(0, places)[0]
    wanted = (best >= last_place[text]) & ~own[every, text] & _above_chance(images, texts, text, doubt)
    others = (~own).sum(1).clamp(min=1)
    for_image = ((similarity >= given[:, None]) & ~own).sum(1) / others
    for_text = ((similarity >= given[None]) & ~own).sum(0) / others
    wrong = wanted & (for_image > near) & (for_text > near)
    holders = torch.zeros_like(wrong)
    holders[text[wrong]] = True
    (rows,) = (wrong | (holders & ~own[every, text])).nonzero(as_tuple=True)
    _, columns = linear_sum_assignment(similarity[rows][:, rows].numpy(), maximize=True)
    order[rows] = rows[torch.from_numpy(columns)]
    return Rematch(order, ~own[every, order])


def _above_chance(images: torch.Tensor, texts: torch.Tensor, text: torch.Tensor, doubt: float) -> torch.Tensor:
    """Whether each image is more alike to its first text than randomly rotated images are to theirs: bool ``[N]``."""
    images, texts = (F.normalize(side - side.mean(0), dim=1) for side in (images, texts))
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(images.shape[1], images.shape[1], dtype=torch.float64, generator=generator))[0]
    by_chance = (images @ turn @ texts.T).amax(1)
    return (images * texts[text]).sum(1) > by_chance.quantile(1 - doubt)
