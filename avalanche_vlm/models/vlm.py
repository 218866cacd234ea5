"""One wrapper for every open_clip model: encoders, a cached zero-shot head, towers that stay frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.models import MultiTaskModule
from torch import nn

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.competing import ALL_CLASSES, MASKED, CompetingClasses
from avalanche_vlm.models.heads.text import TextHead
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import train_modules, working_parameters
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.slots import AUXILIARY, Slots
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.models.transforms import Transforms

TOWERS = ("image", "text", "scale")


class VLM(MultiTaskModule):
    """A vision-language model as Avalanche sees one.

    ``forward(images, task_labels)`` gives zero-shot logits ``[B, classes]`` over the current label space, and
    ``forward(ImageText)`` the in-batch similarities ``[B, B]``. Under the label space ``"task"`` a sample's task label
    selects the classes that compete; the weights never see it.

    The logit scale (and SigLIP's bias) start frozen, as in ZSCL's code: fine-tuning on small tasks otherwise sharpens
    the softmax instead of learning. ``unfreeze("scale")`` trains them.

    :param clip: any model with open_clip's ``encode_image``, ``encode_text``, ``logit_scale`` and ``logit_bias``.
    :param tokenizer: texts to token ids ``[N, L]``.
    :param transforms: the image transforms that belong to the weights.
    :param name: how results refer to the model.
    """

    def __init__(
        self, clip: nn.Module, tokenizer: Callable[[Sequence[str]], torch.Tensor], transforms: Transforms, name: str
    ) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.transforms = transforms
        self.name = name
        self.label_space: LabelSpace | None = None
        self.slots = Slots()
        """Who has taken which of the places that :meth:`install` fills."""
        self.routed: RoutedPool | None = None
        """Modules of which one works on each sample at prediction."""
        self.image_path: nn.Module | None = None
        """What a parameter-efficient method puts in the image's way: called as ``image_path(encode, images)`` it
        returns features, where ``encode`` is the tower itself."""
        self.text_path: Callable[..., torch.Tensor] | None = None
        """The same for texts: called as ``text_path(encode, tokens)``. Its parameters, if it has any, are the text
        tower's, whose state tells the zero-shot head when to encode anew."""
        self.class_head: nn.Module | None = None
        """What a method puts in the place of the zero-shot head at prediction: called as ``class_head(features,
        logits)`` with unit-length features ``[B, D]`` and the zero-shot logits ``[B, classes]``, :data:`MASKED` for
        classes that do not compete, it returns logits of the same kind. One whose attribute ``trains`` is true answers
        in training as well, and the task loss is on what it says."""
        self.auxiliary = nn.ModuleDict()
        """Modules that losses train along with the model and that prediction does not use, by name. Whoever puts one
        here before Avalanche adapts the optimizer gets its parameters into it; teachers have none of them."""
        self.taps: list[Callable[[ForwardFeatures], None]] = []
        """Called with the features of every :meth:`forward`, so that losses on features need no second pass."""
        self._frozen: set[str] = set()
        self._width: int | None = None
        self._head = TextHead()
        self.competing = CompetingClasses()
        self.freeze("scale")

    # Towers ----------------------------------------------------------------------------------------------------------

    def tower(self, name: str) -> nn.Module:
        """The module of ``"image"`` or ``"text"``. Of a CLIP whose text tower has no module of its own, it is the
        transformer.

        :raises InputError: for another name.
        """
        if name not in ("image", "text"):
            raise InputError(f"a VLM has the towers image and text, not {name!r}")
        return self.clip.visual if name == "image" else getattr(self.clip, "text", None) or self.clip.transformer

    def tower_parameters(self, tower: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of ``"image"``, ``"text"`` or ``"scale"`` (logit scale and bias)."""
        if tower not in TOWERS:
            raise InputError(f"a VLM has the towers {', '.join(TOWERS)}, not {tower!r}")
        for name, parameter in self.clip.named_parameters():
            owner = "image" if name.startswith("visual.") else "scale" if name.startswith("logit_") else "text"
            if owner == tower:
                yield name, parameter

    def working_parameters(self, tower: str) -> Iterator[nn.Parameter]:
        """Those of ``"image"`` or ``"text"`` that take part in a forward pass now: no inactive modules."""
        self.tower(tower)
        if tower == "image":
            yield from working_parameters(self.clip.visual)
            return
        yield from (p for name, p in self.clip.named_parameters(recurse=False) if not name.startswith("logit_"))
        for name, child in self.clip.named_children():
            if name != "visual":
                yield from working_parameters(child)

    def freeze(self, *towers: str) -> VLM:
        """Stop training these towers: no gradients, and eval mode that survives ``train()``."""
        for tower in towers:
            for _, parameter in self.tower_parameters(tower):
                parameter.requires_grad_(False)
            self._frozen.add(tower)
        return self.train(self.training)

    def unfreeze(self, *towers: str) -> VLM:
        """Train these towers again."""
        for tower in towers:
            for _, parameter in self.tower_parameters(tower):
                parameter.requires_grad_(True)
            self._frozen.discard(tower)
        return self.train(self.training)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen towers."""
        return tuple(t for t in TOWERS if t in self._frozen)

    def train(self, mode: bool = True) -> VLM:
        """Set the mode of everything but the frozen towers, which stay in eval mode."""
        super().train(mode)
        for name, module in self.clip.named_children():
            if ("image" if name == "visual" else "text") in self._frozen:
                module.eval()
        train_modules(self.clip, mode)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[VLM]:
        """Eval mode without gradients within a block, and the mode as it was afterwards."""
        mode = self.training
        try:
            with torch.no_grad():
                yield self.eval()
        finally:
            self.train(mode)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters that an optimizer should hold."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_state(self) -> dict[str, list[str]]:
        """What trains, which a state dict does not say.

        :return: ``trains``, the names of all parameters that train, and ``frozen``, the towers that stay in eval mode;
            values that JSON has.
        """
        return {"trains": list(self.trainable_parameters()), "frozen": list(self.frozen)}

    def load_training_state(self, state: Mapping[str, Sequence[str]]) -> VLM:
        """Train what another model trained. Load its state dict first, which brings the parameters.

        :param state: what :meth:`training_state` of a model made in the same way gave.
        :raises InputError: if it names a parameter that this model does not have; nothing has changed then.
        """
        trains = set(state["trains"])
        parameters = dict(self.named_parameters())
        if trains - set(parameters):
            raise InputError(f"the model has no parameter {min(trains - set(parameters))}, which is to train")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trains)
        self._frozen = set(state["frozen"])
        return self.train(self.training)

    @property
    def detour(self) -> nn.Module | None:
        """What a method has put in the images' way, if one has: :attr:`routed` or :attr:`image_path`."""
        return self.image_path if self.routed is None else self.routed

    # Slots -----------------------------------------------------------------------------------------------------------

    def install(self, slot: str, part: Any, owner: str) -> None:
        """Put a method's part where the model will use it, on the model's device and in its mode.

        :param slot: ``"routed"`` or ``"image_path"``, of which a model has one at most; ``"text_path"``,
            ``"class_head"``; or ``"auxiliary."`` and a name.
        :param part: what goes there. None lets the place stay as it is and refuses it to all others.
        :param owner: whose part it is, in words that an error can say: ``"LoRA per task"``.
        :raises InputError: if another method has the slot, or a class head and an image path of two methods would meet;
            the sentence names both methods, and nothing has changed.
        """
        self.slots.take(slot, owner, changes=part is not None)
        if isinstance(part, nn.Module):
            part = part.to(self.device).train(self.training)
        if slot.startswith(AUXILIARY):
            self.auxiliary[slot.removeprefix(AUXILIARY)] = part
        else:
            setattr(self, slot, part)

    def uninstall(self, slot: str) -> Any:
        """Take out what :meth:`install` has put into a slot, so that the slot is free again.

        :param slot: the slot, as for :meth:`install`.
        :return: what was there, None if nothing was.
        """
        self.slots.leave(slot)
        if slot.startswith(AUXILIARY):
            name = slot.removeprefix(AUXILIARY)
            return self.auxiliary.pop(name) if name in self.auxiliary else None
        part = getattr(self, slot)
        setattr(self, slot, None)
        return part

    # Encoders --------------------------------------------------------------------------------------------------------

    def encode_image(self, images: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Image features ``[B, D]``, float32, of unit length if ``normalize``."""
        if self.routed is not None:
            groups = list(self.routed.groups(self._encode, images))
            features = groups[0][1]
            if len(groups) > 1:
                features = features.new_empty(len(images), features.shape[1])
                for rows, of_group in groups:
                    features[rows] = of_group
        elif self.image_path is None:
            return self.encode_image_plain(images, normalize)
        else:
            features = self.image_path(self._encode, images)
        return F.normalize(features, dim=-1) if normalize else features

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.encode_image_plain(images, normalize=False)

    def encode_image_plain(self, images: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Image features from the tower as it stands, its active module included, past :attr:`routed` and
        :attr:`image_path`."""
        self._check_images(images)
        features = self.clip.encode_image(images, normalize=False).float()
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Text features ``[B, D]`` of token ids ``[B, L]``, float32, of unit length if ``normalize``.

        :raises InputError: if the texts are longer than the tower's context, or leave :attr:`text_path` no room in it.
        """
        positions = getattr(getattr(self.clip, "text", self.clip), "positional_embedding", None)
        if positions is not None and tokens.shape[1] > len(positions):
            raise InputError(
                f"the tokenizer gives {tokens.shape[1]} tokens per text, but {self.name}'s text tower takes at most "
                f"{len(positions)}: give the model its own tokenizer"
            )
        encode = partial(self.clip.encode_text, normalize=False)
        features = (encode(tokens) if self.text_path is None else self.text_path(encode, tokens)).float()
        return F.normalize(features, dim=-1) if normalize else features

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids ``[N, L]`` on the model's device."""
        return self.tokenizer(list(texts)).to(self.device)

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    @property
    def width(self) -> int:
        """Numbers per feature, of images and of texts alike."""
        if self._width is None:
            told = [getattr(part, "output_dim", None) for part in (self.clip.visual, getattr(self.clip, "text", None))]
            self._width = next((number for number in told if isinstance(number, int)), None) or self._measured_width()
        return self._width

    def _measured_width(self) -> int:
        size = self.transforms.eval.size
        with self.evaluating():
            return self.encode_image_plain(torch.zeros(1, 3, size, size, device=self.device)).shape[1]

    @property
    def scale(self) -> torch.Tensor:
        """What similarities are multiplied by: exp(logit_scale), at most 100 (arXiv 2103.00020, section 2.5)."""
        return self.clip.logit_scale.exp().clamp(max=100)

    @property
    def bias(self) -> torch.Tensor | None:
        """SigLIP's logit bias, None for CLIP."""
        return getattr(self.clip, "logit_bias", None)

    def similarity(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, N]`` of unit-length features ``[B, D]`` and ``[N, D]``."""
        # Logits reach 100 and their differences decide: half precision would round them away.
        with torch.autocast(image_features.device.type, enabled=False):
            logits = self.scale * image_features.float() @ text_features.float().T
            return logits if self.bias is None else logits + self.bias

    # Prediction ------------------------------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor | ImageText, task_labels: Any = ALL_CLASSES) -> Any:
        """Logits of images over the label space, or of image-text pairs over the batch.

        :param x: images ``[B, 3, H, W]``, or pairs.
        :param task_labels: int or ``[B]``, needed only under the label space ``"task"``; left out, all classes
            compete. None is Avalanche's way to ask for every known task's logits, as a dict.
        :return: ``[B, classes]`` with :data:`MASKED` for invisible classes; ``[B, B]`` for pairs.
        :raises InputError: if images come before a label space is set.
        """
        if isinstance(x, ImageText):
            logits = self._pair_logits(x)
            return dict.fromkeys(self.known_train_tasks_labels, logits) if task_labels is None else logits
        if self.label_space is None:
            raise InputError(
                "the model has no label space to classify images with: call model.set_label_space(...), "
                "for example with benchmark.label_space or LabelSpace.from_names([...])"
            )
        if self.routed is not None and not self.training:
            return self._routed_logits(x, task_labels)
        features = self.encode_image(x)
        if task_labels is None:
            self._tap(ForwardFeatures(features))
            return {t: self.classify(features, t) for t in sorted(self.known_train_tasks_labels)}
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        texts = self.prompt_features(classes)
        self._tap(ForwardFeatures(features, texts, classes))
        return self._class_logits(features, texts, classes, visible)

    def _routed_logits(self, images: torch.Tensor, task_labels: Any) -> Any:
        """Every group of samples with the text features of its own module."""
        if task_labels is None:
            return {t: self._routed_logits(images, t) for t in sorted(self.known_train_tasks_labels)}
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        logits = images.new_empty(len(images), len(self.label_space), dtype=torch.float32)
        for rows, features in self.routed.groups(self._encode, images, task_labels):
            seen = visible if visible.ndim == 1 else visible[rows]
            features, texts = F.normalize(features, dim=-1), self.prompt_features(classes)
            logits[rows] = self._class_logits(features, texts, classes, seen)
        return logits

    def classify(self, features: torch.Tensor, task_labels: Any = ALL_CLASSES) -> torch.Tensor:
        """Logits ``[B, classes]`` of unit-length image features ``[B, D]``: the second half of :meth:`forward`."""
        visible = self.competing.of(task_labels)
        classes = self._competing(visible)
        return self._class_logits(features, self.prompt_features(classes), classes, visible)

    @staticmethod
    def _competing(visible: torch.Tensor) -> torch.Tensor:
        """Ids of the classes that are visible to any sample, in ascending order."""
        (classes,) = (visible if visible.ndim == 1 else visible.any(0)).nonzero(as_tuple=True)
        return classes

    def _class_logits(
        self, features: torch.Tensor, texts: torch.Tensor, classes: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        logits = self.similarity(features, texts)
        if len(classes) < visible.shape[-1]:
            full = logits.new_full((len(features), len(self.label_space)), MASKED)
            full[:, classes] = logits
            logits = full
        if visible.ndim > 1:
            logits = logits.masked_fill(~visible, MASKED)
        head = self.class_head
        if head is None or (self.training and not getattr(head, "trains", False)):
            return logits
        return head(features, logits)

    def prompts(self, classes: torch.Tensor) -> Prompts:
        """The tokenised prompts of these classes, in ascending order of the ids ``[n]``."""
        return self._head.prompts.of(classes).to(self.device)

    def prompt_features(self, classes: torch.Tensor) -> torch.Tensor:
        """Unit-length text features ``[n, D]`` of these classes' prompts, in ascending order of the ids ``[n]``: with
        gradients while the text tower trains, from the cache otherwise."""
        return self._head.features(self, classes)

    def _pair_logits(self, pairs: ImageText) -> torch.Tensor:
        # Captions repeat in a batch (class prompts, several pictures of one text): encode each once.
        distinct, text_of_image = torch.unique(pairs.tokens, dim=0, return_inverse=True)
        images, texts = self.encode_image(pairs.image), self.encode_text(distinct)
        self._tap(ForwardFeatures(images, texts, tokens=distinct, text_of_image=text_of_image))
        return self.similarity(images, texts[text_of_image])

    def _tap(self, features: ForwardFeatures) -> None:
        for tap in self.taps:
            tap(features)

    # Label space -----------------------------------------------------------------------------------------------------

    def set_label_space(self, label_space: LabelSpace) -> VLM:
        """Classify over these classes from now on; forgets which were seen.

        :raises InputError: if a prompt does not fit the text tower's vocabulary.
        """
        head = self._text_head(label_space)
        self.label_space = label_space
        self.competing = CompetingClasses(label_space).to(self.device).train(self.training)
        self._head = head
        return self

    def _text_head(self, label_space: LabelSpace) -> TextHead:
        head = TextHead(label_space, self.tokenizer)
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
            return self._text_head(label_space).encode(self, None)

    def adaptation(self, experience: Any) -> None:
        """Avalanche's hook before every experience: take the benchmark's label space, note which classes are met.

        :raises InputError: if the experience has classes that the label space does not name.
        """
        if self.label_space is None and getattr(experience, "label_space", None) is not None:
            self.set_label_space(experience.label_space)
        if self.training:
            self.known_train_tasks_labels = self.known_train_tasks_labels.union(experience.task_labels)
        if self.label_space is not None and getattr(experience, "label_space", self.label_space) is not None:
            self.competing.meet(experience)

    def _check_images(self, images: torch.Tensor) -> None:
        size = self.transforms.eval.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(
                f"{self.name} takes images [batch, 3, {size}, {size}], got {list(images.shape)}: "
                "give the benchmark this model's transforms"
            )
