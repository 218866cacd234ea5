"""What an update asks both versions about, and what it refuses before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from avalanche_vlm.artifacts import SavedModel
from avalanche_vlm.benchmarks.scenario import HeldOutSet, VLMBenchmark, size_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.living.answers import TestSet
from avalanche_vlm.studies.living.kept import kept_sets
from avalanche_vlm.studies.living.records import Kept
from avalanche_vlm.training import recipes


def check_device(device: str | torch.device) -> None:
    """Refuse a device that torch does not have here.

    :param device: where something is to run.
    :raises InputError: naming it.

    >>> check_device("cpu")
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {str(device)!r} is none that torch can use on this machine") from error


def refuse_growth(recipe: str, saved: SavedModel, stream: VLMBenchmark) -> None:
    """Refuse new classes for a recipe that cannot take any, before anything is trained.

    :param recipe: name of the recipe.
    :param saved: the version that is gone on from.
    :param stream: the stream with what is new.
    :raises InputError: naming the first new class.
    """
    space, before = stream.label_space, saved.label_space
    if space is None or before is None or len(space) == len(before) or recipes.get(recipe).grows:
        return
    raise InputError(
        f"recipe {recipe} learns no classes that it did not know from the first: {space.class_names[len(before)]!r} is "
        f"new, so go on with another recipe (--recipe)"
    )


def sets_aside(folder: Path, kept: Sequence[Kept], given: Sequence[HeldOutSet], model: VLM) -> list[TestSet]:
    """What was kept of held-out sets, and those sets that are given and of which nothing was kept.

    :param folder: the folder that the model was saved to.
    :param kept: what was kept.
    :param given: held-out sets that are at hand.
    :param model: the model that reads them.
    """
    found = list(kept_sets(folder, kept, model.transforms.eval))
    names = {of.name for of in found}
    return [*found, *(TestSet(of.name, of.dataset, of.label_space) for of in given if of.name not in names)]


def kept_of(kept: Sequence[Kept], given: Sequence[HeldOutSet]) -> list[str]:
    """Names of the sets that are given and of which samples were kept: what was kept is measured, so that versions can
    be compared, whatever is in the set by now.

    :param kept: what was kept.
    :param given: held-out sets that are at hand.
    """
    names = {of.name for of in kept if of.file is not None}
    return [of.name for of in given if of.name in names]


def fresh_sets(stream: VLMBenchmark, first: int) -> list[TestSet]:
    """The test sets of what is new, whole.

    :param stream: the stream with what is new.
    :param first: number of the first new experience.
    """
    fresh = list(zip(stream.task_names, stream.test_stream, strict=True))[first:]
    return [TestSet(name, experience.dataset.eval()) for name, experience in fresh]


def refuse_untested(stream: VLMBenchmark, first: int) -> None:
    """Refuse new experiences without a test sample: nothing would say what was learned, nor later what is forgotten.

    :param stream: the stream with what is new.
    :param first: number of the first new experience.
    :raises InputError: naming the first one.
    """
    for asked in fresh_sets(stream, first):
        if size_of(asked.dataset) == 0:
            raise InputError(
                f"{asked.name} has no test samples, so nothing could say what a model learns of it: give it some"
            )
