"""Replay of activations instead of pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from avalanche_vlm._host import rows_of_all, to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.padding import Padding
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.latents import LatentMemory
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.models.cut import TowerCut, default_cut
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.data import experience_batches, images_of
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import autocast_of


class LatentReplayPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the lower image tower, store its outputs, and replay them into the upper part.

    Latent replay (arXiv 1912.01100): a replayed sample costs no pass through the lower layers, and no picture is kept.
    The lower part is frozen for good, so what was stored stays what it would compute. The text tower is left as it is.
    A ViT's activations are about as many numbers as its picture has (ViT-B/16: 151,296 and 150,528), a quarter of it
    with patches twice as wide: at two bytes a number, what is saved is rather time than room. Activations are those
    of the evaluation view: replayed samples are never augmented, since there is no picture left to augment.

    From ``before_forward`` on, ``mbatch`` holds as many images as the loader gave, but labels, task labels, tokens and
    outputs of the replayed samples as well. A plugin that runs a model on ``mb_x`` once more and compares (Avalanche's
    LwF) therefore cannot be combined with this one, and one that encodes images in ``before_forward`` has to stand
    before it.

    :param model: frozen below the cut at construction; only its plain image tower can be replayed into.
    :param memory: where the lower part's outputs are kept.
    :param layer: name of the image tower's submodule before which the cut is; None cuts before its middle block.
    :param batch_size: replayed samples per iteration (fewer while the memory holds fewer), at least 1.
    :raises InputError: if the tower cannot be cut there, or another method has the model's image path.
    """

    cannot: ClassVar = {
        "accumulate": "its samples are appended to one pass of the image tower",
        "grad_checkpointing": "its samples are appended to one pass of the image tower, which runs twice then",
    }
    states: ClassVar = {"memory": KEPT, "_images": WORKING}

    def __init__(self, model: VLM, memory: LatentMemory, *, layer: str | None = None, batch_size: int = 64) -> None:
        super().__init__()
        model.slots.check("image_path", "latent replay", changes=False)
        self.cut = TowerCut(model, default_cut(model) if layer is None else layer)
        self.cut.freeze_below()
        self.memory = memory
        self.batch_size = whole(batch_size, 1, "the number of replayed samples")
        size = model.transforms.eval.size
        blank = self.cut.capture(torch.zeros(1, 3, size, size, device=model.device))
        memory.check_room(tuple(blank.shape[1:]))
        self._images = 0
        model.install("image_path", None, "latent replay")  # it needs the plain tower, and keeps it plain

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if not self.cut.is_in(model_of(strategy)):
            raise InputError("latent replay was made for another model than the one that is trained")

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        # Whoever evaluated the model in between has put the lower part back in training mode.
        self.cut.settle()
        self.cut.disarm()
        if len(self.memory) == 0:
            return
        old = self.memory.sample(self.batch_size)
        x, device = strategy.mbatch[0], strategy.device
        if isinstance(x, ImageText) != ("tokens" in old):
            raise InputError(
                "a latent memory of image-text pairs cannot be replayed into a class stream, or vice versa"
            )
        if isinstance(x, ImageText):
            old_texts = Prompts(old["tokens"]).to(device)
            padding = Padding.joined([x.padding, old_texts.padding])
            strategy.mbatch[0] = ImageText(x.image, rows_of_all([x.tokens, old_texts.tokens]), padding)
        strategy.mbatch[1] = rows_of_all([strategy.mbatch[1], to_device(old["y"], device)])
        if len(strategy.mbatch) > 2:  # a benchmark without task labels has none in its batches
            strategy.mbatch[-1] = rows_of_all([strategy.mbatch[-1], to_device(old["task"], device)])
        self._images = len(x)
        self.cut.arm(old["latents"])

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self.cut.disarm()
        if self._images not in (0, len(strategy.mbatch[0])):
            raise InputError(
                "another plugin changed the minibatch after latent replay, which appends its samples last: put "
                "LatentReplayPlugin behind it"
            )
        self._images = 0

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for x, y, task_labels in experience_batches(strategy):
            with autocast_of(strategy):
                latents = self.cut.capture(images_of(x))
            tokens = x.tokens if isinstance(x, ImageText) else None
            self.memory.add(latents, y, task_labels, tokens, step=strategy.experience.current_experience)

    def before_eval(self, strategy: Strategy, **kwargs: Any) -> None:
        # A pass that failed before the cut leaves it armed.
        self.cut.disarm()
