"""How much of a batch comes from which past step."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from avalanche_vlm.errors import InputError

Mixture = Literal["uniform", "equal", "exponential", "single"]


def check_mixture(mixture: str) -> None:
    """See whether a mixture is known.

    :param mixture: name of a mixture.
    :raises InputError: if there is none of that name.
    """
    if mixture not in get_args(Mixture):
        raise InputError(f"a sampling mixture is {', '.join(get_args(Mixture))}, not {mixture!r}")


def sample_weights(steps: torch.Tensor, mixture: Mixture, generator: torch.Generator | None = None) -> torch.Tensor:
    """The probability of each stored sample to be drawn, by the step that it comes from.

    ``"uniform"`` draws every stored sample alike, so a step weighs as much as it has samples: TiC-CLIP's
    Cumulative-All where everything is stored. ``"equal"`` gives every past step the same share, ``"exponential"`` each
    step half the share of the one after it: TiC-CLIP's Cumulative-Equal and Cumulative-Exp (Garg et al., arXiv
    2310.16226, section 4), as shares of the replayed batch instead of shares of a stored buffer. Draws are
    without repetition, so a step of which little is stored falls short of its share.

    ``"single"`` is ours: the whole draw comes from one past step, and every step has the same chance to be it. Over
    many draws it is ``"equal"``, but a batch then asks for the classes of one past step only: where tasks bring classes
    of their own and the text tower trains, encoding their prompts is what would grow with the number of tasks.

    :param steps: int64 ``[n]``, the experience of each stored sample.
    :param mixture: which of the four ways above.
    :param generator: chooses the step of ``"single"``; None for torch's own.
    :return: ``[n]``, float64, sums to 1.

    >>> sample_weights(torch.tensor([0, 0, 0, 1]), "equal").tolist()
    [0.16666666666666666, 0.16666666666666666, 0.16666666666666666, 0.5]
    >>> sample_weights(torch.tensor([0, 1, 3]), "exponential").tolist()
    [0.14285714285714285, 0.2857142857142857, 0.5714285714285714]
    """
    check_mixture(mixture)
    present, index, counts = torch.unique(steps, return_inverse=True, return_counts=True)
    if mixture == "uniform":
        share = counts.double()
    elif mixture == "equal":
        share = torch.ones(len(present), dtype=torch.float64)
    elif mixture == "single":
        share = torch.zeros(len(present), dtype=torch.float64)
        share[torch.randint(len(present), (1,), generator=generator)] = 1
    else:
        # Age counts the steps that have samples: a step of which nothing was kept takes no share.
        share = 0.5 ** torch.arange(len(present) - 1, -1, -1, dtype=torch.float64)
    weights = (share / counts)[index]
    return weights / weights.sum()
