"""The texts that images are compared with: of some kind, or a list of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from avalanche_vlm._host import on_host
from avalanche_vlm.errors import InputError


def kind_or_tokens(
    texts: str | Sequence[str] | torch.Tensor,
    kinds: Sequence[str],
    tokenizer: Callable[[list[str]], torch.Tensor] | None,
    texts_per_step: int | None,
    of: str,
) -> str | torch.Tensor:
    """The name of a kind of texts as it is, or the tokens of a list of texts.

    :param texts: the name of a kind; texts; or their tokens ``[N, L]``.
    :param kinds: names of the kinds that there are.
    :param tokenizer: the model's tokenizer, for texts.
    :param texts_per_step: how many texts of a list an iteration takes; None for all, the only value for a kind.
    :param of: what the texts belong to, as an error says it.
    :return: the name, or tokens ``[N, L]``.
    :raises InputError: for another name, a list of nothing, texts without a tokenizer, or a number of texts for a kind.
    """
    if isinstance(texts, str) and texts not in kinds:
        raise InputError(f"the texts of {of} are {', '.join(kinds)} or a list, not {texts!r}")
    if isinstance(texts, str) and texts_per_step is not None:
        raise InputError(f"texts_per_step is for a list of texts: of the texts of the {texts} all are compared")
    if len(texts) == 0:
        raise InputError("the list of texts is empty: there is nothing to compare the images with")
    if isinstance(texts, str | torch.Tensor):
        return texts
    if tokenizer is None:
        raise InputError("a list of texts needs the model's tokenizer: give model.tokenizer after the list")
    return tokenizer(list(texts))


def numbered(tokens: torch.Tensor, numbers: dict[bytes, int]) -> torch.Tensor:
    """A number for every text, the same for equal ones: epochs bring the same captions again.

    :param tokens: the texts' tokens ``[N, L]``.
    :param numbers: the numbers given so far, by a text's tokens; new texts are added, with the next numbers.
    :return: int64 ``[N]``, on the CPU.

    >>> numbers = {}
    >>> numbered(torch.tensor([[7], [8], [7]]), numbers).tolist(), numbered(torch.tensor([[9], [8]]), numbers).tolist()
    ([0, 1, 0], [2, 1])
    """
    texts = [row.tobytes() for row in on_host(tokens).numpy()]
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def packed_texts(numbers: dict[bytes, int]) -> torch.Tensor:
    """The texts that :func:`numbered` gave numbers to, as a tensor.

    :param numbers: the numbers by a text's tokens, all of equal length.
    :return: bytes ``[n, b]``, uint8, a row per text in the order of the numbers.

    >>> packed_texts({b"ab": 0, b"cd": 1}).tolist()
    [[97, 98], [99, 100]]
    """
    if not numbers:
        return torch.zeros(0, 0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(b"".join(numbers)), dtype=torch.uint8).reshape(len(numbers), -1)


def unpacked_texts(texts: torch.Tensor) -> dict[bytes, int]:
    """The numbers again that :func:`packed_texts` made a tensor of.

    :param texts: bytes ``[n, b]``, uint8.

    >>> unpacked_texts(packed_texts({b"ab": 0, b"cd": 1}))
    {b'ab': 0, b'cd': 1}
    """
    return {row.tobytes(): number for number, row in enumerate(texts.cpu().numpy())}
