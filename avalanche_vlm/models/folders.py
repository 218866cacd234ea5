"""Models that bring settings and weights of their own: folders in open_clip's format, on this machine or the hub.

They come from anyone, so what they hold is looked at before open_clip or transformers see it: weights go through
:mod:`avalanche_vlm.models.checkpoints`, and settings through :mod:`avalanche_vlm.models.model_settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.checkpoints import Checkpoint, check_is_checkpoint, inspect_checkpoint
from avalanche_vlm.models.model_settings import read_settings

LOCAL, HUB = "local-dir:", "hf-hub:"
"""Beginnings of names of models that bring their own weights."""

CONFIG = "open_clip_config.json"
"""File of a folder that holds the architecture and how its images are prepared."""

_ENDINGS = (".safetensors", ".bin", ".pth")

_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of the weights that open_clip takes first, where a folder holds several files."""


@dataclass(frozen=True)
class Folder:
    """A model's folder whose files were looked at.

    :param config: the file with the architecture.
    :param settings: what it holds, checked.
    :param weights: the file of weights that belongs to it; None where there is none, or none was asked for.
    """

    config: Path
    settings: dict[str, Any]
    weights: Checkpoint | None


def open_folder(name: str, cache_dir: str | None, with_weights: bool, trusted: bool = False) -> Folder:
    """The files of a model that brings its own, downloaded if they are on the hub and not here.

    :param name: ``hf-hub:org/model`` or ``local-dir:/path``.
    :param cache_dir: where downloads are kept, None for the hub's default.
    :param with_weights: whether the weights are wanted as well.
    :param trusted: whether the user said that code of this model may run.
    :return: the files, none of which asks for code to be run.
    :raises InputError: if it is no such folder, its weights are none or hold more than tensors, or its settings say
        what is not known to run no code.
    """
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        config, weights = folder / CONFIG, _weights_in(folder) if with_weights else None
        if not config.is_file():
            raise InputError(f"{folder} is not a model folder: it has no {CONFIG}")
    else:
        from open_clip.pretrained import download_pretrained_from_hf

        repository = name.removeprefix(HUB)
        config = Path(download_pretrained_from_hf(repository, filename=CONFIG, cache_dir=cache_dir))
        weights = Path(download_pretrained_from_hf(repository, cache_dir=cache_dir)) if with_weights else None
    settings = read_settings(config, trusted)
    return Folder(config, settings, None if weights is None else inspect_checkpoint(weights))


def _weights_in(folder: Path) -> Path | None:
    """The file that open_clip would load."""
    found = sorted(path for path in folder.glob("*") if path.suffix in _ENDINGS)
    for path in found:
        check_is_checkpoint(path)
    found.sort(key=lambda path: (_rank(path.name), path.suffix != ".safetensors"))
    return found[0] if found else None


def _rank(name: str) -> int:
    return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)
