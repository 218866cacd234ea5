"""A vision-language model as Avalanche sees one: a classifier over a label space, or over the texts of a batch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.models import MultiTaskModule
from torch import nn
from typing_extensions import Self

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.experiences import task_labels_of
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace, TrainTemplates
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.models.answering import Answering
from avalanche_vlm.models.built import BuiltRecipe
from avalanche_vlm.models.competing import ALL_CLASSES, MASKED, CompetingClasses
from avalanche_vlm.models.encoder import DualEncoder
from avalanche_vlm.models.heads.text import TextHead
from avalanche_vlm.models.keeping import Keeping
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import banks, restore_banks
from avalanche_vlm.models.origin import Origin
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.slots import AUXILIARY, Slots
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.models.transforms import Transforms


class VLM(Answering, Keeping, DualEncoder, MultiTaskModule):
    """A vision-language model as Avalanche sees one.

    ``forward(images, task_labels)`` gives zero-shot logits ``[B, classes]`` over the current label space, and
    ``forward(ImageText)`` the in-batch similarities ``[B, B]``. A sample's task label has a say in which classes
    compete (:class:`~avalanche_vlm.models.competing.CompetingClasses`); the weights never see it.

    Its state dict has, beside weights, all that decides predictions and further training: the modules that methods have
    added, the label space, and which classes were met. Loaded into a model that was made in the same way, with the same
    method built on it, it makes that model predict and go on as this one would. What trains is not in it
    (:meth:`~avalanche_vlm.models.towers.TwoTowers.training_state` says that).

    What users ask of it, :meth:`~avalanche_vlm.models.answering.Answering.predict` and
    :meth:`~avalanche_vlm.models.answering.Answering.retrieve`, takes images as they are;
    :meth:`~avalanche_vlm.models.keeping.Keeping.save` writes it to a folder.

    :param clip: any model with open_clip's ``encode_image``, ``encode_text``, ``logit_scale`` and ``logit_bias``.
    :param tokenizer: turns texts into token ids ``[N, L]``.
    :param transforms: the image transforms that belong to the weights.
    :param name: how results refer to the model.
    """

    known_train_tasks_labels: set[int]

    def __init__(
        self, clip: nn.Module, tokenizer: Callable[[Sequence[str]], torch.Tensor], transforms: Transforms, name: str
    ) -> None:
        super().__init__(clip, tokenizer, transforms, name)
        self.origin: Origin | None = None
        """How the model was made; None for one that was built by the user's own hands."""
        self.built: list[BuiltRecipe] = []
        """The recipes that ``recipes.build`` has built on it, the first one first."""
        self.saved_in: Path | None = None
        """The folder that it was loaded from; None for one that was made here."""
        self.weights_seed: int | None = None
        """The seed that random weights were drawn with; None for weights that were loaded or given."""
        self.label_space: LabelSpace | None = None
        self.slots = Slots()
        """Who has taken which of the places that :meth:`install` fills."""
        self.class_head: nn.Module | None = None
        """What a method puts in the place of the zero-shot head at prediction: called as ``class_head(features,
        logits)`` with unit-length features ``[B, D]`` and the zero-shot logits ``[B, classes]``,
        :data:`~avalanche_vlm.models.competing.MASKED` for classes that do not compete, it returns logits of the same
        kind. One whose attribute ``trains`` is true answers in training as well, and the task loss is on what it
        says."""
        self.auxiliary = nn.ModuleDict()
        """Modules that losses train along with the model and that prediction does not use, by name. Whoever installs
        one before Avalanche adapts the optimizer gets its parameters into it; teachers have none of them."""
        self.taps: list[Callable[[ForwardFeatures], None]] = []
        """Called with the features of every :meth:`forward`, so that losses on features need no second pass."""
        self.text_head = TextHead()
        self.competing = CompetingClasses()
        self.train_templates: TrainTemplates = "all"
        """Which prompts stand for a class while ``competing`` is in training; at test all do."""

    # Slots -----------------------------------------------------------------------------------------------------------

    def install(self, slot: str, part: Any, owner: str) -> None:
        """Put a method's part where the model will use it, on the model's device and in its mode.

        :param slot: ``"routed"`` or ``"image_path"``, of which a model has one at most; ``"text_path"``,
            ``"class_head"``; or ``"auxiliary."`` and a name.
        :param part: what goes there. None lets the place stay as it is and refuses it to all others.
        :param owner: the method whose part it is, in words that an error can say: ``"LoRA per task"``.
        :raises InputError: if another method has the slot, or a class head and an image path of two methods would meet
            (the sentence names both methods), or if there is no such slot or the part does not go there; nothing has
            changed then.
        """
        self.slots.check(slot, owner, changes=part is not None)
        if not (part is None or isinstance(part, nn.Module) or (slot == "text_path" and callable(part))):
            raise InputError(f"what {owner} puts into {slot} is a module, not a {type(part).__name__}")
        name = slot.removeprefix(AUXILIARY)
        if slot.startswith(AUXILIARY) and hasattr(nn.ModuleDict, name):  # torch finds its modules among its attributes
            raise InputError(f"an auxiliary module of {owner} cannot be called {name!r}: torch has the name")
        self.slots.take(slot, owner, changes=part is not None)
        if isinstance(part, nn.Module):
            part = part.to(self.device).train(self.training)
        if slot.startswith(AUXILIARY):
            self.auxiliary[name] = part
        else:
            setattr(self, slot, part)

    def uninstall(self, slot: str) -> Any:
        """Take out what :meth:`install` has put into a slot, so that the slot is free again.

        :param slot: the slot's name, as :meth:`install` has it.
        :return: what was there, None if nothing was.
        """
        self.slots.leave(slot)
        if slot.startswith(AUXILIARY):
            name = slot.removeprefix(AUXILIARY)
            return self.auxiliary.pop(name) if name in self.auxiliary else None
        part = getattr(self, slot)
        setattr(self, slot, None)
        return part

    # Prediction ------------------------------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor | ImageText, task_labels: Any = ALL_CLASSES) -> Any:
        """Logits of images over the label space, or of image-text pairs over the batch.

        :param x: images ``[B, 3, H, W]``, or pairs.
        :param task_labels: int or ``[B]``: :class:`~avalanche_vlm.models.competing.CompetingClasses` says which classes
            compete for a sample of a task. Left out, those do that the label space says, all of them under ``"task"``,
            and in training those met so far. None is Avalanche's way to ask for every known task's logits, as a dict.
        :return: ``[B, classes]`` with :data:`~avalanche_vlm.models.competing.MASKED` for invisible classes; ``[B, B]``
            for pairs. A batch of no images has no logits ``[0, classes]``, and no tower sees it.
        :raises InputError: if images come before a label space is set.
        """
        if isinstance(x, ImageText):
            logits = self._pair_logits(x, task_labels)
            return dict.fromkeys(self.known_train_tasks_labels, logits) if task_labels is None else logits
        if self.label_space is None:
            raise InputError(
                "the model has no label space to classify images with: call model.set_label_space(...), "
                "for example with benchmark.label_space or LabelSpace.from_names([...])"
            )
        if len(x) == 0:
            empty = x.new_zeros(0, len(self.label_space), dtype=torch.float32)
            return dict.fromkeys(self.known_train_tasks_labels, empty) if task_labels is None else empty
        if self.routed is not None and not self.training:
            return self._routed_logits(self.routed, x, task_labels)
        features = self.encode_image(x)
        if task_labels is None:
            self._tap(ForwardFeatures(features))
            return {t: self.classify(features, t) for t in sorted(self.known_train_tasks_labels)}
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        texts = self.prompt_features(classes)
        self._tap(ForwardFeatures(features, texts, classes))
        return self._class_logits(features, texts, classes, visible)

    def _routed_logits(self, routed: RoutedPool, images: torch.Tensor, task_labels: Any) -> Any:
        """Every group of samples with the text features of its own module."""
        if task_labels is None:
            return {t: self._routed_logits(routed, images, t) for t in sorted(self.known_train_tasks_labels)}
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        logits = images.new_empty(len(images), visible.shape[-1], dtype=torch.float32)
        for rows, features in self.routed_groups(routed, images, task_labels):
            seen = visible if visible.ndim == 1 else visible[rows if isinstance(rows, slice) else on_host(rows)]
            features, texts = F.normalize(features, dim=-1), self.prompt_features(classes)
            self._tap(ForwardFeatures(features, texts, classes, rows=rows))
            logits[rows] = self._class_logits(features, texts, classes, seen)
        return logits

    def classify(self, features: torch.Tensor, task_labels: Any = ALL_CLASSES) -> torch.Tensor:
        """Logits ``[B, classes]`` of unit-length image features ``[B, D]``: the second half of :meth:`forward`."""
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        return self._class_logits(features, self.prompt_features(classes), classes, visible)

    def _competing(self, visible: torch.Tensor) -> torch.Tensor:
        """Ids of the classes that are visible to any sample, in ascending order."""
        (classes,) = (visible if visible.ndim == 1 else visible.any(0)).nonzero(as_tuple=True)
        return to_device(classes, self.device)

    def _class_logits(
        self, features: torch.Tensor, texts: torch.Tensor, classes: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        if visible.ndim > 1 and len(visible) != len(features):
            raise InputError(f"there are {len(visible)} task labels for {len(features)} images")
        logits = self.competing.weighed(self.similarity(features, texts), classes)
        if len(classes) < visible.shape[-1]:
            full = logits.new_full((len(features), visible.shape[-1]), MASKED)
            full[:, classes] = logits
            logits = full
        if visible.ndim > 1:
            logits = logits.masked_fill(to_device(~visible, logits.device), MASKED)
        head = self.class_head
        if head is None or (self.training and not getattr(head, "trains", False)):
            return logits
        return head(features, logits)

    def prompts(self, classes: torch.Tensor) -> Prompts:
        """The tokenised prompts that stand for these classes in training, in ascending order of the ids ``[n]``."""
        head = self.text_head
        prompts = head.first_prompts if self.train_templates == "first" else head.prompts
        return prompts.of(classes).to(self.device)

    def prompt_features(self, classes: torch.Tensor) -> torch.Tensor:
        """Unit-length text features ``[n, D]`` of these classes' prompts, in ascending order of the ids ``[n]``: with
        gradients while the text tower trains, from the cache otherwise. In training :attr:`train_templates` says which
        prompts these are."""
        return self.text_head.features(self, classes, self.competing.training and self.train_templates == "first")

    def _pair_logits(self, pairs: ImageText, task_labels: Any) -> torch.Tensor:
        if self.routed is not None and self.routed.decides_by(task_labels):
            features = (
                self.encode_image(pairs.image, task_labels=task_labels),
                self.encode_text(pairs.tokens, task_labels=task_labels, padding=pairs.padding),
            )
            own = torch.arange(len(pairs), device=pairs.tokens.device)
            self._tap(ForwardFeatures(*features, tokens=pairs.tokens, text_of_image=own, padding=pairs.padding))
            return self.similarity(*features)
        # Captions repeat in a batch (class prompts, several pictures of one text): encode each once.
        told = torch.unique(on_host(pairs.tokens), dim=0, return_inverse=True)
        distinct, text_of_image = (to_device(part, self.device) for part in told)
        images, texts = self.encode_image(pairs.image), self.encode_text(distinct, padding=pairs.padding)
        self._tap(ForwardFeatures(images, texts, tokens=distinct, text_of_image=text_of_image, padding=pairs.padding))
        return self.similarity(images, texts[text_of_image])

    def _tap(self, features: ForwardFeatures) -> None:
        for tap in self.taps:
            tap(features)

    # Label space -----------------------------------------------------------------------------------------------------

    def set_label_space(self, label_space: LabelSpace) -> Self:
        """Classify over these classes from now on; forgets which were seen.

        Warns (:class:`~avalanche_vlm.errors.DataWarning`) of classes that compete and whose prompts have equal tokens.

        :raises InputError: if a prompt does not fit the text tower's vocabulary.
        """
        head = self.head_for(label_space)
        if sentence := head.told_apart(label_space):
            warnings.warn(sentence, DataWarning, stacklevel=2)
        self.label_space = label_space
        self.competing = CompetingClasses(label_space, self.competing.in_training).train(self.training)
        self.text_head = head
        return self

    def grow_label_space(self, label_space: LabelSpace) -> Self:
        """Classify over these classes from now on, which are those of before with others behind; what was seen stays
        seen.

        :param label_space: label space that the present one begins.
        :raises InputError: if there is none yet, or a class would get another id, name or prompt.
        """
        before = self.label_space
        if before is None or not before.begins(label_space):
            raise InputError(
                "a label space grows by tasks and classes behind those that there are: every class keeps its id, its "
                "name and its prompts"
            )
        competing = self.competing.grown(label_space)
        self.set_label_space(label_space)
        self.competing = competing
        return self

    def head_for(self, label_space: LabelSpace) -> TextHead:
        """The zero-shot head of a label space, which the model does not take for its own.

        :param label_space: classes and prompts of the head.
        :raises InputError: if a prompt does not fit the text tower's vocabulary.
        """
        head = TextHead(label_space, self.tokenizer, self.text_head.limit)
        tower = getattr(self.clip, "text", self.clip)
        known = getattr(getattr(tower, "token_embedding", None), "num_embeddings", None)
        if known is not None and head.largest_token >= known:
            raise InputError(
                f"the tokenizer gives token {head.largest_token}, but {self.name}'s text tower knows only {known}: "
                "give the model its own tokenizer"
            )
        return head

    def class_features(self, label_space: LabelSpace) -> torch.Tensor:
        """Unit-length text features ``[classes, D]`` of another label space: for held-out sets."""
        with self.evaluating():
            return self.head_for(label_space).features(self, torch.arange(len(label_space), device=self.device))

    def adaptation(self, experience: Any) -> None:
        """Avalanche's hook before every experience: take the benchmark's label space, note which classes are met.

        :raises InputError: if the experience has classes that the label space does not name.
        """
        if self.label_space is None and getattr(experience, "label_space", None) is not None:
            self.set_label_space(experience.label_space)
        if self.training:
            self.known_train_tasks_labels = self.known_train_tasks_labels.union(task_labels_of(experience))
        if self.label_space is not None and getattr(experience, "label_space", self.label_space) is not None:
            self.competing.meet(experience)

    # State and copies ------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What decides predictions and is no tensor, as values that JSON has; torch asks for it."""
        return {
            "label_space": None if self.label_space is None else self.label_space.as_json(),
            "known_tasks": sorted(self.known_train_tasks_labels),
            "sites": banks(self.clip),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it, before it loads what is inside the model.

        A state of before the first experience has no label space: one that is set already stays then.
        """
        if state["label_space"] is not None:
            space = LabelSpace.from_json(state["label_space"])
            if space != self.label_space:
                self.set_label_space(space)
        self.known_train_tasks_labels = set(state["known_tasks"])
        restore_banks(self.clip, state["sites"])

    def frozen_copy(self) -> VLM:
        """What the model is now, to be asked for features: in eval mode, with nothing that trains.

        Weights that are frozen here are shared with the copy, since they are the same in both; only what trains is
        copied. It has no heads, taps and auxiliary modules, which serve prediction and losses and may be large.
        """
        memo: dict[int, Any] = {id(part): part for part in (self.tokenizer, self.transforms, self.label_space)}
        memo |= {id(self.text_head): TextHead(), id(self.class_head): None, id(self.taps): []}
        memo[id(self.auxiliary)] = nn.ModuleDict()
        for parameter in self.parameters():
            own = parameter.requires_grad
            memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False) if own else parameter
        return copy.deepcopy(self, memo).eval()
