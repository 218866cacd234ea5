"""CODA-Prompt's components, which every sample's query weighs into a prompt of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.models.modules.query_prompts.places import PromptPlace, put_prefixes
from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool, freeze


class CodaPromptPool(QueryPromptPool):
    """CODA-Prompt (Smith et al., arXiv 2211.13218): prefixes of attention that are sums of components ``P_m`` with
    weights ``cos(q * A_m, K_m)`` (eq. 3 to 5), in each block with components of its own.

    A task adds components; those of earlier tasks are frozen and go on being used, in training as well. New components,
    keys and attention vectors start as unit vectors that are orthogonal to one another and to all earlier ones, as in
    the authors' revised code (Gram-Schmidt); where the space has no direction left, as random unit vectors.

    :param tower: the image tower that the prompts are for.
    :param query: width of the queries.
    :param components: number of components that a task adds, at least 1.
    :param length: vectors of a prompt in a block, even: one half are keys, the other values, behind the layer's
        projections.
    :param blocks: how many of the first blocks have prompts, at least 1; of a tower with fewer, all.
    :raises InputError: for a number out of its range, or a tower without blocks.
    """

    def __init__(self, tower: nn.Module, query: int, *, components: int = 10, length: int = 8, blocks: int = 5) -> None:
        super().__init__()
        self.components = whole(components, 1, "the number of components that a task adds")
        self.blocks = min(whole(blocks, 1, "the number of blocks with prompts"), len(image_blocks(tower).layers))
        if whole(length, 2, "the length of a prompt") % 2:
            raise InputError(f"a prompt is half keys and half values, so its length is even, not {length}")
        self.length, self.width, self.query = length, image_blocks(tower).width, query
        self.prompts = nn.ParameterList()
        self.keys = nn.ParameterList()
        self.attention = nn.ParameterList()

    def install(self, tower: nn.Module) -> list[PromptPlace]:
        """Let prefixes into the attention of the first blocks."""
        return put_prefixes(image_blocks(tower).layers[: self.blocks])

    def begin_task(self) -> None:
        """Add the components of the next task and freeze those before."""
        super().begin_task()
        freeze([*self.prompts, *self.keys, *self.attention])
        shapes = (2, self.length // 2, self.width), (self.query,), (self.query,)
        for known, shape in zip((self.prompts, self.keys, self.attention), shapes, strict=True):
            new = torch.stack([self._more(known, block, shape) for block in range(self.blocks)])
            known.append(self.parameter(new))

    def keep(self, tasks: int) -> None:
        """Drop the components of all tasks but the first ones."""
        known = (self.prompts, self.keys, self.attention)
        self.prompts, self.keys, self.attention = (nn.ParameterList(list(part)[:tasks]) for part in known)

    def _more(self, known: nn.ParameterList, block: int, shape: tuple[int, ...]) -> torch.Tensor:
        """New rows ``[components, *shape]`` beside what earlier tasks have in a block."""
        width = torch.Size(shape).numel()
        rows = [p[block].detach().flatten(1) for p in known]
        old = torch.cat(rows) if rows else torch.zeros(0, width)
        return orthonormal_rows(self.components, old).view(self.components, *shape)

    def weights(self, query: torch.Tensor) -> torch.Tensor:
        """``cos(q * A_m, K_m)`` of queries ``[B, D]`` as ``[blocks, B, components]``, oldest components first."""
        keys, attention = F.normalize(torch.cat(list(self.keys), 1), dim=2), torch.cat(list(self.attention), 1)
        # The cosine multiplied out: a batch times all components in D dimensions would be large.
        along = query @ (attention * keys).transpose(1, 2)
        norm = (query.square() @ attention.square().transpose(1, 2)).clamp(min=1e-24).sqrt()
        return along / norm

    def forward(self, query: torch.Tensor) -> list[torch.Tensor]:
        components = torch.cat(list(self.prompts), 1)
        prompts = self.weights(query) @ components.flatten(2)
        return list(prompts.unflatten(2, components.shape[2:]).unbind(0))

    def penalty(self, query: torch.Tensor) -> torch.Tensor:
        """``|B B^T - 1|^2`` for components, keys and attention vectors (section 4.3), summed over them and the blocks.

        The mean over the matrix's entries, as in the authors' code; the paper's sum would grow with the square of the
        number of components.
        """
        total = query.new_zeros(())
        for known in (self.prompts, self.keys, self.attention):
            total = total + from_orthonormal(torch.cat(list(known), 1).flatten(2)).sum()
        return total


def from_orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """How far rows are from orthonormal ones: the mean over the entries of ``|B B^T - 1|^2``, ``[blocks]``.

    Of more rows than they have dimensions ``|B^T B|^2 - 2 |B|^2 + m`` says the same, and takes a matrix of dimensions
    where the other takes one of rows, which on a long stream would grow with the square of the tasks.

    :param rows: ``[blocks, m, d]``.

    >>> from_orthonormal(torch.tensor([[[1.0], [2.0]]])).tolist()
    [4.25]
    """
    m, d = rows.shape[1:]
    if m <= d:
        return (rows @ rows.transpose(1, 2) - torch.eye(m, device=rows.device)).square().mean((1, 2))
    across = (rows.transpose(1, 2) @ rows).square().sum((1, 2))
    return (across - 2 * rows.square().sum((1, 2)) + m) / m**2


def orthonormal_rows(n: int, old: torch.Tensor) -> torch.Tensor:
    """Random unit rows ``[n, d]``, orthogonal to one another and to old rows ``[m, d]`` for as long as there is room.

    >>> rows = orthonormal_rows(2, torch.tensor([[0.0, 3.0, 0.0]]))
    >>> bool(torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-6)), bool((rows[:, 1].abs() < 1e-6).all())
    (True, True)
    """
    taken = old.detach().cpu().double()
    fresh = torch.randn(n, taken.shape[1], dtype=torch.float64)
    room = max(0, taken.shape[1] - len(taken))
    if room:
        span = torch.linalg.qr(torch.cat([taken, fresh[:room]]).T).Q
        fresh[:room] = span[:, len(taken) : len(taken) + room].T
    return F.normalize(fresh, dim=1).float()
