"""The zero-shot head: class prompts, encoded once for as long as the text tower does not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch

from avalanche_vlm.benchmarks.context import check_prompts
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.models.encoder import DualEncoder
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.weights.versions import optimizer_steps, tensor_versions


class _When(NamedTuple):
    """What features of prompts follow from: they are encoded again where one of these is another.

    :param device: where the weights are.
    :param precision: autocast's, None without it.
    :param steps: steps of optimizers so far, of a tower that trains; None of one that does not.
    :param versions: where the weights that work now lie, and how often each was written to.
    """

    device: str
    precision: str | None
    steps: int | None
    versions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: DualEncoder, precision: str | None) -> Self:
        """How it is now."""
        steps = optimizer_steps() if _trains(model) else None
        return cls(str(model.device), precision, steps, tensor_versions(model.working_parameters("text")))


def _trains(model: DualEncoder) -> bool:
    return any(p.requires_grad for p in model.working_parameters("text"))


def _module(model: DualEncoder) -> str | None:
    """The module that changes texts now."""
    return None if model.routed is None else model.routed.pool.text_module


class TextHead:
    """Class prompts encoded once per state of the text tower, and per module of a pool.

    The features are kept for as long as neither a weight of the tower nor the precision (autocast) changes. A change of
    a weight is seen by the version counter that torch raises on in-place operations and by the storage's address; both
    are read, nothing is computed. Fused optimizers raise no counter, so while the tower trains every optimizer step
    counts as a change too. What torch cannot see is a write through ``parameter.data``: after one, set the label space
    again.
    """

    def __init__(
        self,
        label_space: LabelSpace | None = None,
        tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
    ) -> None:
        if label_space is None or tokenizer is None:
            self.prompts = Prompts(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        else:
            self.prompts = Prompts.tokenized(label_space.prompts(), tokenizer)
            check_prompts(label_space, tokenizer, self.prompts.tokens)
        self._cached: dict[str | None, tuple[_When, torch.Tensor]] = {}

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

    def features(self, model: DualEncoder, classes: torch.Tensor) -> torch.Tensor:
        """Unit-length features ``[len(classes), D]``; with gradients if the text tower trains.

        :param classes: ids in ascending order, each once.
        """
        if torch.is_grad_enabled() and _trains(model):
            return self.encode(model, classes)
        kind = model.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        when = _When.of(model, str(torch.get_autocast_dtype(kind)) if cast else None)
        module = _module(model)
        if module not in self._cached or self._cached[module][0] != when:
            with torch.no_grad():
                self._cached[module] = when, self.encode(model, None)
        features = self._cached[module][1]
        return features if len(classes) == len(self.prompts) else features[classes]

    def at_hand(self, model: DualEncoder) -> tuple[str | None, torch.Tensor] | None:
        """What :meth:`features` would not encode again for the module that works now.

        :param model: the model whose prompts these are.
        :return: the precision that it was encoded in, None for the weights' own, and the features of all classes
            ``[classes, D]``; None if there is nothing, or the text tower trains.
        """
        if (module := _module(model)) not in self._cached:
            return None
        when, features = self._cached[module]
        unchanged = not _trains(model) and when == _When.of(model, when.precision)
        return (when.precision, features) if unchanged else None

    def take(self, model: DualEncoder, precision: str | None, features: torch.Tensor) -> None:
        """Have at hand what :meth:`at_hand` gave for the same weights, perhaps in another process.

        :param model: the model whose prompts these are.
        :param precision: the precision that the features were encoded in.
        :param features: features of all classes ``[classes, D]``.
        """
        self._cached[_module(model)] = _When.of(model, precision), features.to(model.device)

    def encode(self, model: DualEncoder, classes: torch.Tensor | None) -> torch.Tensor:
        """Encode the prompts of these classes (all by default) and average each class's ensemble."""
        prompts = self.prompts if classes is None else self.prompts.of(classes)
        return prompts.encode(model.encode_text)
