"""Distillation on generated image-text pairs, with consolidation of the weights that matter to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.alignment import soft_alignment
from avalanche_vlm.losses.penalty import adaptive_fisher, quadratic_penalty
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.generators import Generator, generate_pairs
from avalanche_vlm.memory.rows import token_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.training.strategies import autocast_of
from avalanche_vlm.training.teachers import Teacher
from avalanche_vlm.weights.average import snapshot


class SyntheticDistillationPlugin(SupervisedPlugin):
    """Keep the student's similarities on generated pairs where its teacher's are: GIFT (Wu et al., arXiv 2503.04229).

    As every task starts, ``n`` pairs are generated from prompts of what must not be forgotten: base prompts for the
    pretrained model's knowledge, and the prompts (first template) of the classes that earlier experiences trained.
    Every step draws a batch of them, encodes it with both towers of the student, and adds to the loss

    - ``weight`` times distillation from the teacher's similarities, rows and columns;
    - ``alignment`` times :func:`~avalanche_vlm.losses.alignment.soft_alignment`, equal prompts matching each other;
    - ``consolidation`` times ``sum F (theta - theta_start of task)^2``, where F is
      :func:`~avalanche_vlm.losses.penalty.adaptive_fisher` of the gradient of the two terms above in this step.

    Defaults are the authors' code on MTIL. It differs from the plugin in that it draws prompts with replacement,
    finishes a pass over the pairs with a smaller batch, and gives weights without a gradient the importance 1e-6
    where ours is 0.

    What the teacher says about a task's pairs is constant, so it is computed once as the task starts: the previous
    teacher is the model itself at that moment, and no copy of it is made. Pairs, features and the task's first weights
    live while it trains. Between tasks only the base prompts and the ids of the classes seen are kept (and the initial
    teacher, if that is the one): the pairs of the next task are generated anew, for which the generator must still be
    there.

    Captions of a pair stream are the user's data, which replay without a buffer must not keep: pairs are generated
    from the base prompts alone. On a class-labelled stream without base prompts the first task trains with none of the
    above, for nothing has been learned that could be named.

    :param model: the student; with ``teacher="initial"`` its state at construction is the teacher.
    :param generator: makes the pictures; what it gives at another size than the model's is resized.
    :param prompts: base prompts: texts from the pretrained model's world, such as reference captions.
    :param n: pairs per task, at least 2.
    :param batch_size: synthetic pairs per iteration, at least 2; at most ``n`` are taken.
    :param weight: of the distillation.
    :param alignment: weight of the alignment.
    :param consolidation: weight of the penalty. Importances are large where a tensor's gradient is sparse, so with
        plain SGD a step along the penalty's gradient can overshoot and diverge: it is meant for AdamW.
    :param temperature: of both distributions, positive.
    :param label_smoothing: of the alignment's targets, in [0, 1).
    :param teacher: ``"previous"``, the model as the task starts, or ``"initial"``, as it was given.
    :param seed: of the pairs and their batches, at least 0.
    :raises InputError: for a bad setting; as a task starts, if a pair stream has no base prompts.
    """

    supports_distributed = False

    def __init__(
        self,
        model: VLM,
        generator: Generator,
        *,
        prompts: Sequence[str] = (),
        n: int = 1000,
        batch_size: int = 64,
        weight: float = 1.0,
        alignment: float = 0.25,
        consolidation: float = 1.0,
        temperature: float = 2.0,
        label_smoothing: float = 0.2,
        teacher: Literal["previous", "initial"] = "previous",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("n", n, 2), ("batch_size", batch_size, 2), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"{name} of the synthetic pairs is {least} or more, not {value}")
        if temperature <= 0:
            raise InputError(f"the temperature of the distillation is positive, not {temperature}")
        if teacher not in ("previous", "initial"):
            raise InputError(f"the teacher is previous or initial, not {teacher!r}")
        if isinstance(prompts, str):
            raise InputError(f"base prompts are a list of texts, not {prompts!r}")
        self.generator = generator
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed
        self.weight, self.alignment, self.consolidation = weight, alignment, consolidation
        self.temperature, self.label_smoothing = temperature, label_smoothing
        self._initial = Teacher(model) if teacher == "initial" else None
        # One object instead of one per prompt: their overhead would be as large as their text.
        self._prompts = "\0".join(prompts).encode()
        self._seen = torch.zeros(0, dtype=torch.long)
        self._lesson: _Lesson | None = None
        self._batches: Passes | None = None
        self._anchor: dict[str, torch.Tensor] = {}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        prompts = self._known(strategy)
        if not prompts:
            return
        task = np.random.SeedSequence([self.seed, strategy.experience.current_experience])
        pairs, batches = (int(s) for s in task.generate_state(2))
        pixels, captions = generate_pairs(self.generator, prompts, self.n, pairs)
        model: VLM = strategy.model
        with autocast_of(strategy), model.evaluating():
            self._lesson = _teach(self._initial or model, model, pixels, captions)
        self._batches = Passes(self.n, self.batch_size, batches)
        self._anchor = snapshot(model.trainable_parameters())

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self._lesson is None:
            return
        trainable = strategy.model.trainable_parameters()
        with autocast_of(strategy):
            loss = self._distillation(strategy.model)
        gradients = dict(
            zip(
                trainable,
                torch.autograd.grad(loss, list(trainable.values()), allow_unused=True, materialize_grads=True),
                strict=True,
            )
        )
        # The importances need this gradient now, and the strategy's backward needs it again. Instead of going through
        # the synthetic batch twice, add what has the loss's value and, exactly, this gradient.
        strategy.loss += loss.detach() + sum((gradients[n] * (p - p.detach())).sum() for n, p in trainable.items())
        strategy.loss += self.consolidation * quadratic_penalty(trainable, self._anchor, adaptive_fisher(gradients))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._lesson, self._batches, self._anchor = None, None, {}
        if _label_space(strategy) is not None:
            classes = torch.tensor(list(strategy.experience.classes_in_this_experience), dtype=torch.long)
            self._seen = torch.cat([self._seen, classes]).unique()

    def stored(self) -> StoredBytes:
        """Bytes of what is kept now: while a task trains its pairs, features and first weights as well."""
        kept = StoredBytes(ram=len(self._prompts) + tensor_bytes([self._seen, *self._anchor.values()]))
        parts = (self._initial, self._lesson)
        return sum((part.stored() for part in parts if part is not None), kept)

    def _known(self, strategy: Any) -> list[str]:
        """Prompts of what must not be forgotten, each once."""
        base = self._prompts.decode().split("\0") if self._prompts else []
        space = _label_space(strategy)
        if space is None:
            if not base:
                raise InputError(
                    "synthetic pairs for an image-text stream are made of base prompts, and there are none: give some, "
                    "for example a reference set's captions"
                )
            return list(dict.fromkeys(base))
        names = space.prompts()
        return list(dict.fromkeys([*base, *(names[c][0] for c in self._seen.tolist())]))

    def _distillation(self, model: VLM) -> torch.Tensor:
        """Distillation and alignment of the student on the next batch of pairs."""
        pixels, text, teacher = self._lesson.at(self._batches.next())
        # Prompts repeat in a batch: encode each once.
        distinct, inverse = text.unique(return_inverse=True)
        images = model.encode_image(model.transforms.eval.from_uint8(pixels.to(model.device)))
        student = model.similarity(images, model.encode_text(self._lesson.tokens_of(distinct))[inverse])
        distillation = logit_distillation(student, teacher, self.temperature)
        alignment = soft_alignment(student, text[:, None] == text[None, :], self.label_smoothing)
        return self.weight * distillation + self.alignment * alignment


def _label_space(strategy: Any) -> LabelSpace | None:
    """The classes that the experience's targets belong to; None if they are captions."""
    return getattr(strategy.experience, "label_space", strategy.model.label_space)


@dataclass(slots=True)
class _Lesson:
    """A task's synthetic pairs and what the teacher says about them.

    Arrays where the CPU holds them: around small tensors there is more than in them.

    :param pixels: uint8 ``[n, 3, H, W]`` at the model's size.
    :param text: int32 ``[n]``, which of the k distinct prompts belongs to a picture.
    :param tokens: ``[k, L]``, as narrow as they can be.
    :param features: the teacher's, ``[n + k, D]``: of the images, times its scale, then of the prompts.
    """

    pixels: np.ndarray
    text: np.ndarray
    tokens: np.ndarray
    features: torch.Tensor

    def at(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels, texts and the teacher's logits ``[b, b]`` of these b pairs.

        The logits leave out SigLIP's bias, to which no softmax answers.
        """
        rows, device = chosen.numpy(), self.features.device
        text = torch.from_numpy(self.text[rows]).long()
        with torch.autocast(device.type, enabled=False):
            logits = self.features[chosen.to(device)] @ self.features[(len(self.text) + text).to(device)].T
        return torch.from_numpy(self.pixels[rows]), text.to(device), logits

    def tokens_of(self, texts: torch.Tensor) -> torch.Tensor:
        """Token ids ``[b, L]`` of these prompts."""
        return torch.from_numpy(self.tokens[texts.cpu().numpy()]).long()

    def stored(self) -> StoredBytes:
        arrays = self.pixels.nbytes + self.text.nbytes + self.tokens.nbytes
        return StoredBytes(ram=arrays + tensor_bytes([self.features]))


def _teach(teacher: VLM | Teacher, model: VLM, pixels: torch.Tensor, captions: list[str]) -> _Lesson:
    """The teacher's features of all pairs, computed once."""
    transform = model.transforms.eval
    if pixels.shape[-2:] != (transform.size, transform.size):
        pixels = torch.stack([transform.to_uint8(transform(picture)) for picture in pixels])
    ids = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    tokens = model.tokenize(list(ids))
    images = [teacher.encode_image(transform.from_uint8(part.to(model.device))) for part in pixels.split(256)]
    texts = [teacher.encode_text(part) for part in tokens.split(256)]
    return _Lesson(
        pixels.numpy().copy(),  # without the tensor around it
        np.array([ids[caption] for caption in captions], dtype=np.int32),
        tokens.numpy().astype(f"<u{token_bytes(tokens, None)}"),
        torch.cat([*(teacher.scale * part for part in images), *texts]),
    )
