"""What is known of an experience that may say nothing of itself.

Avalanche's newer benchmarks bring task labels and the timeline of classes on request only.
"""

from __future__ import annotations

from typing import Any


def task_labels_of(experience: Any) -> list[int]:
    """The task labels that occur in an experience.

    :param experience: any of Avalanche's, with task labels of its own, in its data set, or without any.
    :return: the labels in ascending order; 0 for an experience without.
    """
    labels = getattr(experience, "task_labels", None)
    if labels is None:
        of_samples = getattr(experience.dataset, "targets_task_labels", None)
        labels = [0] if of_samples is None else of_samples.uniques
    return sorted({int(label) for label in labels})


def classes_of(experience: Any) -> list[int]:
    """The class ids that occur in an experience.

    :param experience: any of Avalanche's whose data set has targets.
    :return: the ids in ascending order.
    """
    classes = getattr(experience, "classes_in_this_experience", None)
    return sorted({int(y) for y in (experience.dataset.targets.uniques if classes is None else classes)})
