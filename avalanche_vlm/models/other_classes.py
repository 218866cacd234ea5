"""A trained model asked about classes that are not its stream's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.vlm import VLM


class OtherClasses:
    """What a model answers under another label space than its own, with everything that predicts in its own: modules
    that a router chooses, with the texts of each, and the class head. Whatever the model has, the candidates are the
    classes of the other label space and no others.

    A class head knows the classes of the stream by their ids. It is asked about those that were trained and the other
    label space's together, where a name that both have is one class, so that it decides for itself as it does in use
    which samples are its own; of its logits those of the other label space are looked at. A head that takes a sample
    away from the asked classes thus shows what it costs: where it lets none of them compete, there is no answer.

    A sample that the zero-shot logits give to a trained class which is not asked about is no such sample: they lose it
    themselves, without any head, and a model without one is not charged for it. Of such a sample the head is asked
    among the candidates alone.

    :param model: the model, in eval mode when it is asked.
    :param space: label space that is asked about; all of its classes compete.
    """

    def __init__(self, model: VLM, space: LabelSpace) -> None:
        self._model, self.head = model, model.head_for(space)
        self._all = to_device(torch.arange(len(space), device="cpu"), model.device)
        known = [] if model.label_space is None else list(model.label_space.class_names)
        place = {name: number for number, name in reversed(list(enumerate(known)))}
        new = [name for name in space.class_names if name not in place]
        place |= {name: len(known) + number for number, name in enumerate(new)}
        self._columns = to_device(torch.tensor([place[name] for name in space.class_names], device="cpu"), model.device)
        self._width = len(known) + len(new)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes]``, ``MASKED`` where the class head lets a class not compete.

        :param images: images ``[B, 3, H, W]`` on the model's device.
        """
        model = self._model
        if model.routed is None:
            return self.of_features(model.encode_image(images))
        found = images.new_empty(len(images), len(self._all), dtype=torch.float32)
        for rows, features in model.routed_groups(model.routed, images):
            found[rows] = self.of_features(F.normalize(features, dim=-1))
        return found

    def of_features(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes]`` of images whose features are known.

        :param features: unit-length features ``[B, D]``, of images that share the module that is active now.
        """
        model = self._model
        logits = model.similarity(features, self.head.features(model, self._all))
        if model.class_head is None or model.label_space is None:
            return logits
        (told,) = model.competing.seen.nonzero(as_tuple=True)
        trained = to_device(told, logits.device)
        every = logits.new_full((len(logits), self._width), MASKED)
        if len(trained):
            every[:, trained] = model.similarity(features, model.prompt_features(trained))
        every[:, self._columns] = MASKED  # a class of both is a candidate, with the prompt of the question
        competes = every.amax(1, keepdim=True) < logits.amax(1, keepdim=True)
        every = every.masked_fill(~competes, MASKED)
        every[:, self._columns] = logits
        return model.class_head(features, every)[:, self._columns]
