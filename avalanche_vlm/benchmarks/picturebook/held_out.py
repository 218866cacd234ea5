"""What no task of the picturebook trains: held-out sets, and reference pairs of the world that pretraining saw."""

from __future__ import annotations

from collections.abc import Callable

import torch

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.picturebook import captions, scenes
from avalanche_vlm.benchmarks.picturebook.render import render, to_uint8
from avalanche_vlm.benchmarks.picturebook.tasks import TEMPLATES, Task, classes_by, generator
from avalanche_vlm.benchmarks.scenario import HeldOutSet, ImageDataset, PairDataset, PairTransform, ReferencePairs
from avalanche_vlm.benchmarks.transformed import Transformed


def held_out_sets(seed: int, n: int, transform: Callable, tokenizer: Callable) -> tuple[HeldOutSet, ...]:
    """What no task trains: captions of combinations that pretraining never drew, sizes and positions.

    :param seed: seed of the pictures, 0 or more.
    :param n: number of captions in the retrieval set; the attribute sets have half as many pictures.
    :param transform: the model's transform of test pictures.
    :param tokenizer: the model's tokenizer, which the captions go through.
    """
    rng = generator(seed, "held-out captions")
    drawn = scenes.distinct_scenes(rng, n, held_out=True)
    retrieval = PairDataset(torch.from_numpy(to_uint8(render(drawn, rng))), captions.caption(drawn))
    sets = [HeldOutSet("captions", Transformed(retrieval, PairTransform(transform, tokenizer)))]
    for name in ("size", "position"):
        task = Task(name, classes_by(name, range(scenes.CARDINALITY[name])), TEMPLATES[name])
        pictures, labels = task.draw(n // 2, seed, "held-out")
        data = Transformed(ImageDataset(torch.from_numpy(pictures), labels.tolist()), transform)
        sets.append(HeldOutSet(name, data, LabelSpace.from_names(task.class_names, task.templates)))
    return tuple(sets)


def reference_pairs(seed: int, n: int, transform: Callable) -> ReferencePairs:
    """Clean pictures with captions of all lengths, from the combinations that pretraining drew from.

    :param seed: seed of the pictures, 0 or more.
    :param n: number of pairs, each with a picture of its own.
    :param transform: the model's transform of test pictures.
    """
    rng = generator(seed, "reference")
    drawn = scenes.sample_scenes(rng, n)
    texts = captions.caption(drawn, captions.random_mentions(rng, n))
    return ReferencePairs(torch.from_numpy(to_uint8(render(drawn, rng))), tuple(texts), transform)
