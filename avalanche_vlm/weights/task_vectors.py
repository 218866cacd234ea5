"""Task vectors: what fine-tuning changed, and ways to merge several of them.

Every merge takes an iterable and goes through it once, so that a generator needs no two task vectors in memory at a
time. The ``update_*`` functions take one vector in, in place: what a plugin that sees a task after the other needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from avalanche_vlm._on_demand import PIECE
from avalanche_vlm.weights.average import State, snapshot, update_running_mean

Vector = Mapping[str, torch.Tensor]


@torch.no_grad()
def task_vector(fine_tuned: Vector, pretrained: Vector) -> State:
    """``fine_tuned - pretrained`` (Ilharco et al., arXiv 2212.04089), over the floating-point tensors of the first.

    :raises ValueError: if a tensor is missing from the pretrained weights or has another shape there.

    >>> task_vector({"w": torch.tensor([3.0]), "steps": torch.tensor(7)}, {"w": torch.tensor([1.0])})
    {'w': tensor([2.])}
    """
    vector = {}
    for name, tensor in fine_tuned.items():
        if not tensor.is_floating_point():
            continue
        if name not in pretrained or pretrained[name].shape != tensor.shape:
            raise ValueError(f"the task vector needs {name} {list(tensor.shape)} in the pretrained weights as well")
        vector[name] = tensor.detach() - pretrained[name].detach().to(tensor)
    return vector


@torch.no_grad()
def apply(pretrained: Vector, vector: Vector, scale: float = 1.0) -> State:
    """``pretrained + scale * vector``, as new tensors; tensors that the vector does not name are copied.

    :param scale: factor of the vector; MagMax takes 0.5 (arXiv 2407.06322).
    :raises ValueError: if the vector names a tensor that the pretrained weights lack.

    >>> apply({"w": torch.tensor([1.0]), "b": torch.tensor([5.0])}, {"w": torch.tensor([4.0])}, 0.5)
    {'w': tensor([3.]), 'b': tensor([5.])}
    """
    for name in vector:
        if name not in pretrained:
            raise ValueError(f"the task vector names {name}, which the pretrained weights lack")
    state = snapshot(pretrained)
    for name, change in vector.items():
        state[name].add_(change.to(state[name]), alpha=scale)
    return state


# Merges that need one vector beside the result ----------------------------------------------------------------------


def average(vectors: Iterable[Vector]) -> State:
    """The arithmetic mean: :func:`~avalanche_vlm.weights.average.update_running_mean` over the vectors.

    >>> average({"w": torch.tensor([x])} for x in (1.0, 2.0, 6.0))
    {'w': tensor([3.])}
    """
    return _merge(vectors, update_running_mean)


@torch.no_grad()
def update_magmax(merged: State, new: Vector) -> None:
    """Keep of every element the value of larger magnitude, in place (MagMax, Marczak et al., arXiv 2407.06322).

    Of two values of equal magnitude the positive one is kept, so that the result does not depend on the order of the
    tasks; the authors' code takes the later one.

    :param merged: the merge so far; changed.
    :param new: the next task vector, with at least the names of ``merged``.
    """
    for name, kept in merged.items():
        other = new[name].detach().to(kept)
        difference = other.abs() - kept.abs()
        kept.copy_(torch.where((difference > 0) | ((difference == 0) & (other > kept)), other, kept))


def magmax(vectors: Iterable[Vector]) -> State:
    """The element of largest magnitude: :func:`update_magmax` over the vectors. The order does not matter.

    >>> magmax([{"w": torch.tensor([1.0, -3.0])}, {"w": torch.tensor([-2.0, 1.0])}])
    {'w': tensor([-2., -3.])}
    """
    return _merge(vectors, lambda merged, new, _: update_magmax(merged, new))


@torch.no_grad()
def update_random_mix(merged: State, new: Vector, count: int, generator: torch.Generator) -> None:
    """Replace each element by that of the new vector with probability ``1 / (count + 1)``, in place.

    After n vectors every element comes from each of them with probability 1 / n, as if all had been at hand: MagMax's
    sibling "random mix" (arXiv 2407.06322), with a reservoir of one per element.

    :param merged: the mix so far; changed.
    :param new: the next task vector, with at least the names of ``merged``.
    :param count: how many vectors are in ``merged``, at least 1.
    :param generator: draws ``merged``'s tensors in order, on its own device.
    """
    for name, kept in merged.items():
        draws = torch.rand(kept.shape, generator=generator, device=generator.device).to(kept.device)
        kept.copy_(torch.where(draws < 1 / (count + 1), new[name].detach().to(kept), kept))


def random_mix(vectors: Iterable[Vector], generator: torch.Generator) -> State:
    """Every element from a vector chosen at random: :func:`update_random_mix` over the vectors.

    The distribution does not depend on the order of the vectors, the draw does.

    >>> mix = random_mix([{"w": torch.zeros(4)}, {"w": torch.ones(4)}], torch.Generator().manual_seed(0))
    >>> set(mix["w"].tolist()) <= {0.0, 1.0}
    True
    """
    return _merge(vectors, lambda merged, new, count: update_random_mix(merged, new, count, generator))


def _merge(vectors: Iterable[Vector], update: Callable[[State, Vector, int], None]) -> State:
    merged: State = {}
    count = 0  # not enumerate, which holds on to a vector while a generator makes the next one
    for vector in vectors:
        if count:
            update(merged, vector, count)
        else:
            merged = snapshot(vector)
        count += 1
        del vector
    if not count:
        raise ValueError("there is no task vector to merge")
    return merged


# TIES ---------------------------------------------------------------------------------------------------------------


@dataclass
class TiesSums:
    """What TIES has to remember of the trimmed vectors: the sum and number of their positive and of their negative
    elements. Unlike the merges above this takes two copies of the weights and two of 16-bit counts, but no more for
    ten tasks than for two: the merged vector alone would not do, since which sign wins is known only at the end.
    """

    positive: State = field(default_factory=dict)
    negative: State = field(default_factory=dict)
    positives: State = field(default_factory=dict)
    negatives: State = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all four."""
        return sum(tensor.nbytes for part in vars(self).values() for tensor in part.values())

    def state_dict(self) -> State:
        """All tensors, by the field that they are in, a dot, and their name."""
        return {f"{part}.{name}": tensor for part, of in vars(self).items() for name, tensor in of.items()}

    def load_state_dict(self, state: Vector) -> None:
        """Go on from a state that :meth:`state_dict` gave.

        :param state: tensors by field and name.
        """
        for part in vars(self):
            own = {key: tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
            setattr(self, part, {key.removeprefix(f"{part}."): tensor.clone() for key, tensor in own.items()})


def no_ties(like: Vector) -> TiesSums:
    """Empty sums for vectors with the names and shapes of this one."""
    kinds = (None, None, torch.int16, torch.int16)
    return TiesSums(
        *(
            {name: torch.zeros_like(t, dtype=kind, memory_format=torch.contiguous_format) for name, t in like.items()}
            for kind in kinds
        )
    )


@torch.no_grad()
def update_ties(sums: TiesSums, new: Vector, keep: float = 0.2) -> None:
    """Trim a task vector to its elements of largest magnitude and add them to the sums, in place.

    The threshold is that of the whole vector, not of each tensor. Elements as large as the smallest one kept are kept
    as well. No copy of the vector is made, and one tensor of it is asked for at a time, several times.

    :param sums: sums of the vectors so far; changed.
    :param new: the next task vector, with at least the names of the sums; a mapping may make its tensors when asked.
    :param keep: share of the elements to keep, in (0, 1].
    :raises ValueError: for a share outside.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"TIES keeps a share of the elements in (0, 1], not {keep}")
    elements = sum(tensor.numel() for tensor in sums.positive.values())
    threshold = _largest_magnitude(new, list(sums.positive), max(1, int(keep * elements)))
    for name in sums.positive:
        parts = (sums.positive[name], sums.positives[name], sums.negative[name], sums.negatives[name])
        for tensor, *of in zip(*(_pieces(t) for t in (new[name].detach().contiguous(), *parts)), strict=True):
            large = tensor.abs() >= threshold
            for chosen, total, count in ((large & (tensor > 0), *of[:2]), (large & (tensor < 0), *of[2:])):
                total.add_(torch.where(chosen, tensor, torch.zeros_like(tensor)).to(total))
                count.add_(chosen)


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a contiguous tensor's elements, a megabyte each: what is made on the way is no larger."""
    return tensor.view(-1).split(PIECE)


@torch.no_grad()
def _largest_magnitude(vector: Vector, names: list[str], rank: int) -> torch.Tensor:
    """The magnitude that is the so-manieth largest of all elements, by 16 bits of it after the other: floating-point
    numbers without a sign are ordered as the integers that their bits make, so counting these takes no sorted copy."""
    kind = vector[names[0]].dtype
    for name in names[1:]:
        kind = torch.promote_types(kind, vector[name].dtype)
    width, bits = 8 * kind.itemsize, {2: torch.int16, 4: torch.int32, 8: torch.int64}[kind.itemsize]
    found = 0
    for shift in range(width - 16, -1, -16):
        counts: torch.Tensor | None = None
        for name in names:
            for piece in _pieces(vector[name].detach().contiguous()):
                numbers = piece.to(kind).abs().view(bits)
                if shift < width - 16:
                    numbers = numbers[numbers >> (shift + 16) == found] >> shift & 0xFFFF
                else:
                    numbers = numbers >> shift
                counted = numbers.bincount(minlength=1 << 16)
                counts = counted if counts is None else counts + counted
        assert counts is not None
        as_large = counts.flip(0).cumsum(0)
        above = int((as_large < rank).sum())
        rank -= int(as_large[above - 1]) if above else 0
        found = found << 16 | (1 << 16) - 1 - above
    return torch.tensor(found, dtype=bits, device=vector[names[0]].device).view(kind)


@torch.no_grad()
def elect_sign(sums: TiesSums, name: str) -> torch.Tensor:
    """One tensor of :func:`elect_ties`.

    :param sums: sums of all vectors.
    :param name: name of the tensor.
    """
    merged = torch.empty_like(sums.positive[name], memory_format=torch.contiguous_format)
    parts = (sums.positive[name], sums.positives[name], sums.negative[name], sums.negatives[name])
    for out, positive, ups, negative, downs in zip(*(_pieces(t) for t in (merged, *parts)), strict=True):
        total = positive + negative
        up, down = positive / ups.clamp(min=1), negative / downs.clamp(min=1)
        out.copy_(torch.where(total > 0, up, torch.where(total < 0, down, torch.zeros_like(total))))
    return merged


def elect_ties(sums: TiesSums) -> State:
    """The merged vector: of every element the sign with the larger sum, and the mean of the values of that sign.

    Where the two sums cancel exactly no sign is elected and the element is zero. (The authors' code gives such
    elements the sign that most others have.)
    """
    return {name: elect_sign(sums, name) for name in sums.positive}


def ties(vectors: Iterable[Vector], keep: float = 0.2) -> State:
    """Trim, elect signs, and take the mean of the values that agree (TIES, Yadav et al., arXiv 2306.01708, section 3).

    The order of the vectors does not matter, up to rounding.

    :param keep: share of every vector's elements that survive the trimming, in (0, 1]; the paper keeps 20 %. The
        number kept is rounded down, to one at least; the authors' code keeps one more.
    :raises ValueError: for a share outside, or without vectors.

    >>> vectors = [{"w": torch.tensor([4.0, 0.1, -3.0])}, {"w": torch.tensor([-1.0, 0.2, -5.0])}]
    >>> ties(vectors, keep=0.7)
    {'w': tensor([ 4.,  0., -4.])}
    """
    sums: TiesSums | None = None
    for vector in vectors:
        sums = no_ties(vector) if sums is None else sums
        update_ties(sums, vector, keep)
        del vector
    if sums is None:
        raise ValueError("there is no task vector to merge")
    return elect_ties(sums)
