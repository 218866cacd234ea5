"""Which items answer which queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.unit_features import row_ids
from avalanche_vlm.losses.identity import captions_of, images_of_rows


class Relation(NamedTuple):
    """Which items answer which queries. It lies on the CPU, so that no device is waited for to learn what is equal.

    :param queries: key of every query, int64 ``[Q]`` in 0..q-1.
    :param items: key of every item, int64 ``[M]`` in 0..m-1.
    :param links: which keys belong together, int64 ``[L, 2]``, each query's key beside an item's.
    """

    queries: torch.Tensor
    items: torch.Tensor
    links: torch.Tensor

    @classmethod
    def of_equal(cls, query_ids: torch.Tensor, item_ids: torch.Tensor) -> Relation:
        """What has equal ids belongs together.

        :param query_ids: id of every query ``[Q]``.
        :param item_ids: id of every item ``[M]``.
        """
        _, keys = torch.unique(torch.cat([query_ids, item_ids]), return_inverse=True)
        queries, items = keys.split([len(query_ids), len(item_ids)])
        return cls(queries, items, torch.unique(keys)[:, None].expand(-1, 2))

    def turned(self) -> Relation:
        """The same with items in the place of queries."""
        return Relation(self.items, self.queries, self.links.flip(1))

    def of_rows(self, rows: slice, device: torch.device | None = None) -> torch.Tensor:
        """Whether each item answers these queries: bool ``[n, M]``.

        :param rows: places of these queries among all.
        :param device: where the table is made; None for the CPU.
        """
        device = torch.device("cpu") if device is None else device
        asked, place = torch.unique(self.queries[rows], return_inverse=True)
        keys = int(self.links.max()) + 1
        at = asked.new_full((keys,), -1)
        at[asked] = torch.arange(len(asked), device=asked.device)
        row, item = at[self.links[:, 0]], self.links[:, 1]
        answers = to_device(row[row >= 0], device), to_device(item[row >= 0], device)
        table = torch.zeros(len(asked), keys, dtype=torch.bool, device=device)
        table.index_put_(answers, torch.ones((), dtype=torch.bool, device=device))
        return table[to_device(place, device)][:, to_device(self.items, device)]


def of_pairs(
    images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor | Sequence[int]
) -> tuple[Relation, torch.Tensor, torch.Tensor]:
    """Which captions answer which images among pairs, an image counting once however many rows it has.

    :param images: features of the images ``[N, D]``.
    :param texts: features of the texts ``[N, D]``, row n that of image n's.
    :param ids: identities of the pairs ``[N]``.
    :return: the relation of the distinct images to all captions, the first row of each image, and the image of each
        row.
    :raises InputError: if images, texts and ids are not equally many, or ids are no numbers.

    >>> relation, first, image = of_pairs(torch.eye(3), torch.eye(3), [1 << 32 | 0, 1 << 32 | 1, 2 << 32 | 1])
    >>> first.tolist(), image.tolist(), relation.of_rows(slice(0, 2)).int().tolist()
    ([0, 2], [0, 0, 1], [[1, 1, 1], [0, 1, 1]])
    """
    if len(images) != len(texts):
        raise InputError(f"{len(images)} image features and {len(texts)} text features do not pair up")
    ids = row_ids(ids, images, "pair")
    _, unit = torch.unique(images_of_rows(ids), return_inverse=True)
    _, caption = torch.unique(captions_of(ids), return_inverse=True)
    rows, count = torch.arange(len(ids), device=ids.device), int(unit.max()) + 1
    first = unit.new_full((count,), len(ids)).scatter_reduce(0, unit, rows, "amin")
    links = torch.unique(torch.stack([unit, caption], 1), dim=0)
    return Relation(torch.arange(count, device=ids.device), caption, links), first, unit
