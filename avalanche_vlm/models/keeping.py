"""A model into a folder, as a method: what writes it is built on the model and goes by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avalanche_vlm._registry import resolve
from avalanche_vlm.models.built import BuiltRecipe


class Keeping:
    """The part of a :class:`~avalanche_vlm.models.VLM` that outlives the process."""

    built: list[BuiltRecipe]
    saved_in: Path | None

    def save(self, folder: str | Path, **options: Any) -> Path:
        """Save the model, so that :func:`avalanche_vlm.load` gives one that predicts the same, bit for bit.

        Recipes that ``recipes.build`` has built on it are built again when it is loaded; one without any is saved as
        plain weights. The model predicts from there; to go on learning it needs the state of its training as well,
        which ``plugins`` brings.

        >>> import tempfile
        >>> from avalanche_vlm import create_vlm, load
        >>> with tempfile.TemporaryDirectory() as home:
        ...     (create_vlm("tiny").save(home).name, load(home).name)
        ('v1', 'tiny')

        :param folder: gets ``versions/v1`` and so on, and ``model``, a link to the newest.
        :param options: ``plugins``, ``base``, ``embed_base``, ``version``, ``current`` and ``about`` of
            :func:`~avalanche_vlm.artifacts.save_model`. A model that was loaded from a folder with its base takes the
            base along unless ``embed_base`` says something else.
        :return: the version's folder.
        :raises InputError: if the model cannot be saved so that it can be loaded, such as one with parts that no recipe
            has built, or a file cannot be written; the folder then holds what it held.
        """
        write: Callable[..., Path] = resolve("avalanche_vlm.artifacts.noted:save_noted")
        return write(folder, self, **options)
