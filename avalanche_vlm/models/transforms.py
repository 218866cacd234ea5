"""The two image transforms that come with a model."""

from __future__ import annotations

from dataclasses import dataclass

from avalanche_vlm.benchmarks.transforms import ImageTransform


@dataclass(frozen=True)
class Transforms:
    """The transforms that come with a model.

    :param train: the transform with the model's augmentation, if it has one.
    :param eval: without. Never confuse the two: scores under training transforms are not comparable.
    """

    train: ImageTransform
    eval: ImageTransform
