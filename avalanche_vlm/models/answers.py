"""What a model answers, typed: classes of an image, images of a query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """A class and how probable it is.

    :param name: name of the class.
    :param index: the class's place in the label space or in the list of labels, from 0 on; it tells classes of one name
        apart.
    :param probability: softmax over all classes that compete, in [0, 1].
    """

    name: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer on one image.

    :param classes: the most probable classes that compete, the most probable first, of equally probable ones that with
        the smaller index; empty where a class head lets none compete.
    :param module: name of the module that has answered, of a model that chooses among modules; None where that is the
        pretrained model itself, and for models that do not choose.
    :param out_of_distribution: whether the model's router places the image in none of the tasks that it knows; None for
        models without a router.
    """

    classes: tuple[ClassProbability, ...]
    module: str | None = None
    out_of_distribution: bool | None = None

    @property
    def best(self) -> ClassProbability | None:
        """The most probable class, None where none competes."""
        return self.classes[0] if self.classes else None


@dataclass(frozen=True, slots=True)
class Match:
    """An image or a text that was found.

    :param index: its place among those that were searched, from 0 on.
    :param item: what was given: a path, a text; None for an image without a name of its own.
    :param similarity: cosine of image and text, in [-1, 1].
    """

    index: int
    item: str | None
    similarity: float
