"""A model saved by what it remembers of itself: the recipes that were built on it, and where it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.artifacts.description import Built
from avalanche_vlm.artifacts.loading import open_saved
from avalanche_vlm.artifacts.rebuilding import without_paths
from avalanche_vlm.artifacts.saving import save_model
from avalanche_vlm.models import VLM


def save_noted(
    folder: str | Path,
    model: VLM,
    *,
    plugins: Sequence[SupervisedPlugin] | None = None,
    base: VLM | None = None,
    embed_base: bool | None = None,
    version: str | None = None,
    current: bool = True,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model with the recipes that were built on it, see :meth:`~avalanche_vlm.models.keeping.Keeping.save`.

    :param folder: gets ``versions/v1`` and so on, and ``model``, a link to the newest.
    :param model: any model, trained or not.
    :param plugins: plugins of the last recipe, whose state is saved as well, so that training can go on.
    :param base: the model as it was before anything was built on it, for one that was built by the user's own hands.
    :param embed_base: whether the base's weights are written along; None for what was done where the model was loaded
        from.
    :param version: name of the version, which takes the place of one that is there; None for the next one.
    :param current: whether the version becomes the model.
    :param about: what else is to be kept in ``model.json``, in JSON types.
    :return: the version's folder.
    :raises InputError: as :func:`~avalanche_vlm.artifacts.save_model`, and if the base that the model was loaded with
        is no longer in its folder.
    """
    base, embedded = base_along(model, base, embed_base)
    steps = noted(model)
    return save_model(
        folder,
        model,
        recipe=steps[-1].recipe if steps else None,
        options=steps[-1].options if steps else None,
        resources=steps[-1].resources if steps else (),
        frozen=steps[-1].frozen if steps else None,
        earlier=steps[:-1],
        plugins=plugins,
        base=base,
        embed_base=embedded,
        version=version,
        current=current,
        about=about,
    )


def base_along(model: VLM, base: VLM | None, embed_base: bool | None) -> tuple[VLM | None, bool]:
    """The base that a model is saved with: one that was loaded with its base takes it along.

    :param model: any model, trained or not.
    :param base: the base, where the user brings it.
    :param embed_base: whether its weights are to be written along; None for what was done where the model was loaded
        from.
    :return: the base, None where it is made again from what the model says of its origin; and whether it is written.
    :raises InputError: if the base that the model was loaded with is no longer in its folder.
    """
    if base is None and model.saved_in is not None and embed_base is not False:
        there = open_saved(model.saved_in)
        if there.description.base.embedded:  # where it is from in the end may not be on this machine
            return there.base(), True
    return base, bool(embed_base)


def noted(model: VLM) -> list[Built]:
    """The recipes that were built on a model, as a saved one says it.

    :param model: any model, trained or not.
    :return: the first one first.
    :raises InputError: for an option whose value JSON does not have, such as a function.
    """
    return [
        Built(
            recipe=step.recipe,
            options=without_paths(step.recipe, step.options),
            resources=list(step.resources),
            frozen=list(step.frozen),
        )
        for step in model.built
    ]
