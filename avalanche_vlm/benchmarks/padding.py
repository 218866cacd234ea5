"""From where on texts say nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Padding(NamedTuple):
    """What some texts have in common: behind so many tokens each of them repeats one token up to its end.

    It is read where the tokens lie on the CPU and goes with them to an accelerator, where reading would mean waiting.

    :param start: how many tokens stand before it in the longest text, 0 or more.
    :param token: the token that is repeated.
    """

    start: int
    token: int

    @classmethod
    def joined(cls, parts: Sequence[Padding | None]) -> Padding | None:
        """That of the texts of all parts together; None where one of them is not known, or padded in another way.

        >>> Padding.joined([Padding(5, 0), Padding(7, 0)]), Padding.joined([Padding(5, 0), None])
        (Padding(start=7, token=0), None)
        """
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts) or len({part.token for part in known}) > 1:
            return None
        return max(known)


def padding_of(tokens: torch.Tensor) -> Padding:
    """The padding of some texts. Where texts end in different tokens, as one that fills its row does beside shorter
    ones, there is none.

    :param tokens: token ids ``[N, L]`` or ``[L]``; an accelerator is waited for.

    >>> padding_of(torch.tensor([[1, 7, 2, 0, 0], [1, 8, 9, 2, 0]])), padding_of(torch.tensor([[1, 2, 0], [1, 3, 2]]))
    (Padding(start=4, token=0), Padding(start=3, token=0))
    """
    if tokens.numel() == 0:
        return Padding(tokens.shape[-1], 0)
    rows = tokens.reshape(-1, tokens.shape[-1])
    last = rows[0, -1]
    columns = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    # Both numbers in one tensor, so that an accelerator is waited for once.
    start, token = torch.stack([((rows != last).any(0) * columns).amax(), last]).tolist()
    return Padding(start, token)


def padding_before_move(tokens: torch.Tensor, device: torch.device, known: Padding | None) -> Padding | None:
    """The padding of texts that are about to be moved: what is known of it, or else read as long as that costs no
    waiting.

    :param tokens: token ids ``[N, L]`` or ``[L]``.
    :param device: where they are going.
    :param known: their padding, None if nobody has read it.
    """
    if known is None and tokens.device.type == "cpu" and device.type not in ("cpu", "meta"):
        return padding_of(tokens)
    return known
