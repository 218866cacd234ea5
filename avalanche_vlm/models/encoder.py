"""Two towers that put images and texts into one space, and the paths that lead into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from avalanche_vlm._host import to_device
from avalanche_vlm._rows import share_out
from avalanche_vlm.benchmarks.padding import Padding
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.blocks import halves
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.parts import in_parts
from avalanche_vlm.models.scale import keep_scale_low
from avalanche_vlm.models.text_positions import LEAST, TextPositions, context_of, encode_short, text_positions
from avalanche_vlm.models.towers import TwoTowers
from avalanche_vlm.models.transforms import Transforms

TowerPath = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
"""What a method puts before a tower: called with the tower itself and its inputs, it returns features."""


class DualEncoder(TwoTowers):
    """The encoders of a vision-language model.

    The logit scale (and SigLIP's bias) start frozen, as in ZSCL's code: fine-tuning on small tasks otherwise sharpens
    the softmax instead of learning. ``unfreeze("scale")`` trains them.

    :param clip: any model with open_clip's ``encode_image``, ``encode_text``, ``logit_scale`` and ``logit_bias``.
    :param tokenizer: turns texts into token ids ``[N, L]``.
    :param transforms: the image transforms that belong to the weights.
    :param name: how results refer to the model.
    """

    def __init__(
        self, clip: nn.Module, tokenizer: Callable[[Sequence[str]], torch.Tensor], transforms: Transforms, name: str
    ) -> None:
        super().__init__(clip)
        self.tokenizer = tokenizer
        self.transforms = transforms
        self.name = name
        self.routed: RoutedPool | None = None
        """Modules of which one works on each sample at prediction."""
        self.image_path: nn.Module | None = None
        """What a parameter-efficient method puts in the image's way: called as ``image_path(encode, images)`` it
        returns features, where ``encode`` is the tower itself."""
        self.text_path: TowerPath | None = None
        """The same for texts: called as ``text_path(encode, tokens)``. Its parameters, if it has any, are the text
        tower's, whose state tells the zero-shot head when to encode anew."""
        self._width: int | None = None
        self._whole_texts = False
        self.parts = 1
        """Parts in which a batch that trains is encoded (:func:`~avalanche_vlm.models.parts.in_parts`)."""
        self.freeze("scale")
        keep_scale_low(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come from a copy or a pickle, which call no constructor."""
        super().__setstate__(state)
        keep_scale_low(self)

    def encode_image(self, images: torch.Tensor, normalize: bool = True, task_labels: Any = None) -> torch.Tensor:
        """Image features ``[B, D]``, float32, of unit length if ``normalize``.

        :param images: ``[B, 3, H, W]`` under the model's transforms.
        :param normalize: whether features are scaled to unit length.
        :param task_labels: int or ``[B]``, read where modules are chosen by them
            (:attr:`~avalanche_vlm.models.modules.routed.RoutedPool.use_task_labels`).
        """
        if self.routed is not None:
            groups = list(self.routed_groups(self.routed, images, task_labels))
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

    def routed_groups(
        self, routed: RoutedPool, images: torch.Tensor, task_labels: Any = None
    ) -> Iterator[tuple[Any, torch.Tensor]]:
        """The samples of a batch by the module that a routed way gives them, what the modules share computed once
        (:meth:`~avalanche_vlm.models.modules.routed.RoutedPool.groups`).

        :param routed: the routed way, :attr:`routed`.
        :param images: ``[B, 3, H, W]`` under the model's transforms.
        :param task_labels: int or ``[B]``, read where modules are chosen by them.
        """
        return routed.groups(self._encode, images, task_labels, partial(halves, self.clip, self._encode))

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.encode_image_plain(images, normalize=False)

    def encode_image_plain(self, images: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Image features from the tower as it stands, its active module included, past :attr:`routed` and
        :attr:`image_path`.

        :param images: ``[B, 3, H, W]`` under the model's transforms.
        :param normalize: whether features are scaled to unit length.
        :return: features ``[B, D]``, float32.
        :raises InputError: if the images are of another size, or of whole numbers, or no tensor.
        """
        size = self.transforms.eval.size
        taken = f"{self.name} takes images [batch, 3, {size}, {size}]"
        if not isinstance(images, torch.Tensor):
            raise InputError(f"{taken} as one tensor, got a {type(images).__name__}: predict takes others")
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(f"{taken}, got {list(images.shape)}: give the benchmark this model's transforms")
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise InputError(f"{taken} of floats, got {kind}: give the benchmark this model's transforms")
        features = in_parts(partial(share_out, self._tower), images, self.parts)
        return F.normalize(features, dim=-1) if normalize else features

    def _tower(self, images: torch.Tensor) -> torch.Tensor:
        """What the tower makes of the images that this process encodes."""
        found = self.clip.encode_image(self._as_weights(images), normalize=False)
        if not isinstance(found, torch.Tensor):
            raise InputError(f"{self.name} gives tokens beside features: leave output_tokens out of its configuration")
        return found.float()

    def _as_weights(self, images: torch.Tensor) -> torch.Tensor:
        """Images in the precision of the layer that takes them: those of arrays often have twice as many bits."""
        first = next((m for m in self.clip.visual.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
        return images.to(first.weight.dtype) if first is not None and first.weight.is_floating_point() else images

    def encode_text(
        self,
        tokens: torch.Tensor,
        normalize: bool = True,
        task_labels: Any = None,
        padding: Padding | None = None,
        kept: bool | None = None,
    ) -> torch.Tensor:
        """Text features ``[B, D]`` of token ids ``[B, L]``, float32, of unit length if ``normalize``.

        Of the positions those are computed that the features depend on
        (:func:`~avalanche_vlm.models.text_positions.text_positions`), unless :meth:`whole_texts` says otherwise.

        :param tokens: token ids ``[B, L]``, on the model's device or on the CPU.
        :param normalize: whether features are scaled to unit length.
        :param task_labels: int or ``[B]`` where texts belong to samples, read where modules are chosen by them.
        :param padding: the padding of these texts, or of more texts that they are among. None reads their ends in the
            tokens, for which an accelerator that they are on is waited for.
        :param kept: whether the features outlive the step that asks for them, and have to be, bit for bit, what they
            are beside other texts, for which short texts are computed at more positions than they need. None takes
            those for kept that are made without gradients, or of a model that is not being trained.
        :raises InputError: if the texts are longer than the tower's context, or leave :attr:`text_path` no room in it.
        """
        context = context_of(self.clip)
        if context is not None and tokens.shape[1] > context:
            raise InputError(
                f"the tokenizer gives {tokens.shape[1]} tokens per text, but {self.name}'s text tower takes at most "
                f"{context}: give the model its own tokenizer"
            )
        positions = self.text_positions
        if positions is None:
            encode = partial(self.clip.encode_text, normalize=False)
        else:
            # Before they are moved: of tokens that come from the CPU no device has to say how long they are.
            if kept is None:
                kept = not (torch.is_grad_enabled() and (self.training or self.text_trains))
            tokens, encode = positions.cut(tokens, padding, LEAST if kept else 1), partial(encode_short, self.clip)
        tokens, encode = to_device(tokens, self.device), partial(share_out, encode)
        if self.text_path is not None:
            encode = partial(self.text_path, encode)
        if self.routed is not None and self.routed.decides_by(task_labels):
            features = self.routed.of_labels(encode, tokens, task_labels).float()
        else:
            features = in_parts(encode, tokens, self.parts).float()
        return F.normalize(features, dim=-1) if normalize else features

    @property
    def text_positions(self) -> TextPositions | None:
        """Which positions of a text are computed; None where all are: in a tower that needs them
        (:func:`~avalanche_vlm.models.text_positions.why_whole` says why), within :meth:`whole_texts`, and in programs
        that are exported, traced or compiled, whose shapes follow from no token."""
        whole = self._whole_texts or torch.compiler.is_compiling() or torch.jit.is_tracing()
        return None if whole else text_positions(self.clip)

    @contextmanager
    def whole_texts(self) -> Iterator[Self]:
        """Within a block texts are encoded at all positions of the context, padding included: for what reads the inside
        of the tower."""
        before, self._whole_texts = self._whole_texts, True
        try:
            yield self
        finally:
            self._whole_texts = before

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids ``[N, L]`` on the model's device."""
        return self.tokenizer(list(texts)).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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
        """What similarities are multiplied by: exp(logit_scale), as it is. That CLIP's stays at most 100 is the affair
        of the steps that train it (:func:`~avalanche_vlm.models.scale.keep_scale_low`)."""
        return self.clip.logit_scale.exp()

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
