"""The zero-shot head: class prompts, encoded once for as long as the text tower does not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from typing_extensions import Self

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.context import check_prompts
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.models.autocast import autocast_dtype
from avalanche_vlm.models.encoder import DualEncoder
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.weights.versions import tensor_versions

BLOCK = 16
"""Classes that are encoded together at most, where nothing trains."""

LIMIT = 256 * 2**20
"""Bytes of features that a head keeps where nothing else is asked for: at 1,000 classes and 512 numbers each, those of
131 modules."""


class TextState(NamedTuple):
    """What features of texts follow from: they are encoded again where one of these is another.

    :param device: where the weights are.
    :param precision: autocast's, None without it.
    :param versions: where the weights that work now lie, and how often each was written to.
    """

    device: str
    precision: str | None
    versions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: DualEncoder, precision: str | None) -> Self:
        """How it is now, by one walk over the weights.

        :param model: the model whose text tower is meant.
        :param precision: autocast's, None without it.
        """
        return cls(str(model.device), precision, tensor_versions(model.working_parameters("text")))


class _Encoded:
    """Features of classes that were encoded in one state of the text tower, under one module.

    :param when: the state of the tower that they follow from.
    :param features: ``[classes, D]``; rows of classes that are missing are 0.
    :param there: bool ``[classes]``, which classes are encoded; on the CPU.
    """

    def __init__(self, when: TextState, features: torch.Tensor, there: torch.Tensor) -> None:
        self.when = when
        self.features = features
        self.there = there
        self.whole = bool(there.all())

    def put(self, classes: torch.Tensor, features: torch.Tensor) -> None:
        """Have these classes ``[n]``, with their features ``[n, D]``."""
        # A new table: the old one may be of inference mode, which allows no writing outside of it.
        self.features = self.features.index_copy(0, to_device(classes, self.features.device), features)
        self.there[classes] = True
        self.whole = bool(self.there.all())


def _module(model: DualEncoder) -> str | None:
    """The module that changes texts now."""
    return None if model.routed is None else model.routed.pool.text_module


def _blocks(space: LabelSpace | None) -> torch.Tensor:
    """The block of each class ``[classes]``: the classes that a task is the first to have, ``BLOCK`` by ``BLOCK``."""
    found, block, known = torch.zeros(0 if space is None else len(space), dtype=torch.long), 0, set[int]()
    for task in () if space is None else space.tasks:
        own = sorted(set(task) - known)
        known.update(own)
        for start in range(0, len(own), BLOCK):
            found[own[start : start + BLOCK]] = block
            block += 1
    return found


class TextHead:
    """Class prompts encoded once per state of the text tower, and per module of a pool.

    Where nothing trains, classes are encoded block by block: those that a task is the first to have, in ascending
    order, at most ``BLOCK`` together. A block is encoded when one of its classes is asked for and is not there yet,
    always with the same classes beside it. The last bits of a feature depend on what a matrix product has beside it; so
    a class has the same bits whoever asks, in whatever order, and in a label space that has grown by tasks.

    The features are kept for as long as neither a weight of the tower nor the precision (autocast) changes. A change of
    a weight is seen by its version counter, which in-place operations and steps of optimizers raise
    (:mod:`avalanche_vlm.weights.versions`), and by the storage's address; both are read, nothing is computed. What
    nobody sees is a write through ``parameter.data``: after one, set the label space again.

    :param label_space: the classes, None for none.
    :param tokenizer: turns texts into token ids ``[N, L]``.
    :param limit: bytes of features that are kept at most, 0 or more. Where they do not suffice for another module,
        those go that were not asked for longest; the module that works now is always kept.
    """

    def __init__(
        self,
        label_space: LabelSpace | None = None,
        tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
        limit: int = LIMIT,
    ) -> None:
        if label_space is None or tokenizer is None:
            self.prompts = Prompts(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        else:
            self.prompts = Prompts.tokenized(label_space.prompts(), tokenizer)
            check_prompts(label_space, tokenizer, self.prompts.tokens)
        self.limit = limit
        self._block = _blocks(label_space)
        self._cached: dict[tuple[str | None, bool], _Encoded] = {}
        """By the module that works, and whether the first prompts alone stand for the classes."""

    @cached_property
    def first_prompts(self) -> Prompts:
        """The first prompt of each class alone."""
        return self.prompts.first()

    def told_apart(self, label_space: LabelSpace) -> str | None:
        """The sentence on classes whose prompts have equal tokens, so that the model cannot tell them apart by name.

        :param label_space: the classes of this head.
        :return: the sentence; None if all classes that compete differ.
        """
        tokens = self.prompts.groups()
        compete = label_space.tasks if label_space.visible == "task" else (tuple(range(len(label_space))),)
        alike: dict[bytes, list[int]] = {}
        for classes in compete:
            found: dict[bytes, list[int]] = {}
            for c in classes:
                found.setdefault(tokens[c], []).append(c)
            alike |= {key: ids for key, ids in found.items() if len(ids) > 1}
        if not alike:
            return None
        sets = [" and ".join(repr(label_space.class_names[c]) for c in ids[:4]) for ids in alike.values()]
        more = f" (and {len(sets) - 3} more such sets)" if len(sets) > 3 else ""
        return (
            f"the model's tokenizer gives the same tokens for the classes {'; '.join(sets[:3])}{more}: by their names "
            "they can never be told apart; give them names that differ in words that the tokenizer knows (class_names, "
            "--class-names FILE), or take a model whose tokenizer knows these"
        )

    @property
    def largest_token(self) -> int:
        """The largest token id in the prompts, -1 without prompts."""
        return int(self.prompts.tokens.max()) if len(self.prompts) else -1

    def features(self, model: DualEncoder, classes: torch.Tensor, first: bool = False) -> torch.Tensor:
        """Unit-length features ``[len(classes), D]``; with gradients if the text tower trains.

        :param model: the model whose prompts these are.
        :param classes: ids in ascending order, each once.
        :param first: whether the first prompt of each class stands for it, and not the average over all.
        """
        if torch.is_grad_enabled() and model.text_trains:
            return self.encode(model, classes, first)
        cast = autocast_dtype(model.device)
        when = TextState.of(model, None if cast is None else str(cast))
        known = self._cached.get(key := (_module(model), first))
        if known is None or known.when != when:
            # Not the old features beside the new: they are of no use any more.
            self._cached.pop(key, None)
            known = _Encoded(when, torch.zeros(len(self.prompts), 0), torch.zeros(len(self.prompts), dtype=torch.bool))
        if not known.whole:
            self._complete(model, known, on_host(classes), first)
        self._keep(key, known)
        return (
            known.features
            if len(classes) == len(self.prompts)
            else known.features[to_device(classes, known.features.device)]
        )

    def _complete(self, model: DualEncoder, known: _Encoded, classes: torch.Tensor, first: bool) -> None:
        """Encode the blocks of these classes ``[n]`` that are not there."""
        for block in self._block[classes[~known.there[classes]]].unique():
            (of_block,) = (self._block == block).nonzero(as_tuple=True)
            with torch.no_grad():
                features = self.encode(model, of_block, first)
            if known.features.shape[1] == 0:
                known.features = features.new_zeros(len(self.prompts), features.shape[1])
            known.put(of_block, features)

    def _keep(self, key: tuple[str | None, bool], encoded: _Encoded) -> None:
        """Have a module's features at hand, and those of others as far as they fit beside."""
        self._cached.pop(key, None)
        self._cached[key] = encoded  # the last one is the one that was asked for last
        while len(self._cached) > 1 and self.kept_bytes > self.limit:
            del self._cached[next(iter(self._cached))]

    def forget(self) -> None:
        """Have no features at hand: for weights that have changed in a way that no counter tells of."""
        self._cached.clear()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the features that are at hand."""
        return sum(known.features.nbytes for known in self._cached.values())

    def at_hand(self, model: DualEncoder) -> tuple[str | None, torch.Tensor, torch.Tensor] | None:
        """What :meth:`features` would not encode again for the module that works now, of averages over all prompts.

        :param model: the model whose prompts these are.
        :return: the precision that it was encoded in, None for the weights' own, the features of the classes that are
            there ``[n, D]``, and their ids ``[n]`` in ascending order; None if there is nothing, or the text tower
            trains.
        """
        if (known := self._cached.get((_module(model), False))) is None or model.text_trains:
            return None
        if known.when != TextState.of(model, known.when.precision):
            return None
        (classes,) = known.there.nonzero(as_tuple=True)
        return known.when.precision, known.features[classes.to(known.features.device)], classes

    def take(
        self, model: DualEncoder, precision: str | None, features: torch.Tensor, classes: torch.Tensor | None = None
    ) -> None:
        """Have at hand what :meth:`at_hand` gave for the same weights, perhaps in another process.

        :param model: the model whose prompts these are.
        :param precision: the precision that the features were encoded in.
        :param features: features of these classes ``[n, D]``.
        :param classes: ids of the classes ``[n]``; None for all.
        """
        ids = torch.arange(len(self.prompts)) if classes is None else classes.cpu()
        table = features.new_zeros(len(self.prompts), features.shape[1], device=model.device)
        known = _Encoded(TextState.of(model, precision), table, torch.zeros(len(self.prompts), dtype=torch.bool))
        known.put(ids, features.to(model.device))
        self._keep((_module(model), False), known)

    def encode(self, model: DualEncoder, classes: torch.Tensor, first: bool = False) -> torch.Tensor:
        """Encode the prompts of these classes in one pass, every distinct one once, and average each class's ensemble.

        :param model: the model whose prompts these are.
        :param classes: ids in ascending order, each once.
        :param first: whether the first prompt of each class is encoded alone.
        """
        prompts = self.first_prompts if first else self.prompts
        return prompts.of(classes).encode(model.encode_text)
