"""What weights a name stands for: the file, how its images were prepared, and the activation that it was trained with.

OpenAI's models, MetaCLIP's, DFN's and some of LAION's were trained with QuickGELU, and under one architecture's name
there are weights of both kinds: ``ViT-B-16`` with OpenAI's weights and plain GELU is another function than OpenAI's.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from avalanche_vlm._content import sha256_of
from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.models.checkpoints import Checkpoint, inspect_checkpoint

QUICK = "-quickgelu"
"""How open_clip's names say that an architecture has QuickGELU."""

_PREPROCESSING = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}
"""Entries of a tag's configuration, and the arguments of open_clip's that they are."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint of an architecture of open_clip's.

    :param checkpoint: the file that holds the weights.
    :param quick_gelu: whether the model has QuickGELU.
    :param preprocessing: arguments of ``open_clip.create_model_and_transforms`` on how images are prepared.
    """

    checkpoint: Checkpoint
    quick_gelu: bool
    preprocessing: dict[str, Any] = field(default_factory=dict)


def weights_of_tag(name: str, tag: str, cache_dir: str | None) -> Weights:
    """The weights of a tag of open_clip's, downloaded if they are not there.

    :param name: architecture that has the tag.
    :param tag: one of ``open_clip.list_pretrained_tags_by_model(name)``.
    :param cache_dir: where downloads are kept, None for open_clip's default.
    :raises InputError: if the file is no checkpoint.
    """
    from open_clip import factory

    config = factory.get_pretrained_cfg(name, tag)
    checkpoint = inspect_checkpoint(Path(factory.download_pretrained(config, cache_dir=cache_dir)))
    quick = bool(config.get("quick_gelu"))
    own = bool((factory.get_model_config(name) or {}).get("quick_gelu"))
    if own and not quick:
        warnings.warn(
            f"open_clip lists the weights {tag!r} as trained with plain GELU and {name} with QuickGELU: "
            "the model has QuickGELU",
            VLMWarning,
            stacklevel=5,
        )
    return Weights(checkpoint, quick or own, _preprocessing(config))


def weights_of_file(name: str, path: Path) -> Weights:
    """The weights in a file that the user names. Its origin decides what it does not say itself.

    The origin is one of the tags of the architecture: known by the checksum in the tag's address, or by the hub's
    repository that the file lies in. Where it is unknown, a warning says what the file was taken for.

    :param name: architecture that the file is for.
    :param path: checkpoint that the user names.
    :raises InputError: if the file is no checkpoint.
    """
    from open_clip import factory

    checkpoint = inspect_checkpoint(path)
    tags = {tag: factory.get_pretrained_cfg(name, tag) for tag in factory.list_pretrained_tags_by_model(name)}
    origin = _origin(path, tags)
    quick = bool((factory.get_model_config(name) or {}).get("quick_gelu"))
    if not quick:
        told = checkpoint.quick_gelu if origin is None else bool(origin.get("quick_gelu"))
        if told is None and _may_be_quick(name, tags):
            warnings.warn(
                f"{path} is taken as trained with plain GELU, as nothing in it says otherwise: if it was trained with "
                f"QuickGELU, as OpenAI's, MetaCLIP's and DFN's models were, name the model {name}{QUICK}",
                VLMWarning,
                stacklevel=5,
            )
        quick = bool(told)
    if origin is None:
        prepared = [_preprocessing(config) for config in tags.values()]
        return Weights(checkpoint, quick, prepared[0] if prepared and prepared.count(prepared[0]) == len(tags) else {})
    return Weights(checkpoint, quick, _preprocessing(origin))


def listed_as_quick(name: str) -> bool:
    """Whether open_clip lists the weights that a hub's repository or a copy of it holds as trained with QuickGELU.

    :param name: ``hf-hub:org/model``, or ``local-dir:X`` where X is called like the repository.
    """
    from open_clip import factory, list_pretrained

    _, _, place = name.partition(":")
    called = place if name.startswith("hf-hub:") else Path(place).name
    for architecture, tag in list_pretrained():
        config = factory.get_pretrained_cfg(architecture, tag)
        repository = config.get("hf_hub", "").rpartition("/")[0]
        if called and called in (repository, repository.rpartition("/")[2]):
            return bool(config.get("quick_gelu"))
    return False


def _preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    return {argument: config[entry] for entry, argument in _PREPROCESSING.items() if entry in config}


def _may_be_quick(name: str, tags: dict[str, dict[str, Any]]) -> bool:
    from open_clip import factory

    return name + QUICK in factory.list_models() or any(config.get("quick_gelu") for config in tags.values())


def _origin(path: Path, tags: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The configuration of the tag whose file this is."""
    file = _Digest(path)
    folders = {part.lower() for part in path.absolute().parts[:-1]}
    for config in tags.values():
        repository = config.get("hf_hub", "").rpartition("/")[0]
        if repository and {f"models--{repository.replace('/', '--')}".lower(), repository.split("/")[-1].lower()} & (
            folders
        ):
            return config
        expected = _checksum(config.get("url", ""))
        if expected and file.sha256.startswith(expected):
            return config
    return None


def _checksum(url: str) -> str:
    """The SHA-256, or its beginning, that an address of open_clip's ends in.

    >>> _checksum("https://openaipublic.azureedge.net/clip/models/" + "5" * 64 + "/ViT-B-16.pt") == "5" * 64
    True
    >>> _checksum("https://github.com/mlfoundations/open_clip/releases/x/vit_b_16-laion400m_e32-55e67d44.pt")
    '55e67d44'
    >>> _checksum("https://dl.fbaipublicfiles.com/MMPT/metaclip/b16_400m.pt")
    ''
    """
    *_, folder, file = ["", *url.split("/")]
    if re.fullmatch(r"[0-9a-f]{64}", folder):
        return folder
    found = re.search(r"-([0-9a-f]{8})\.\w+$", file)
    return found[1] if found and "mlfoundations" in url else ""


class _Digest:
    """The checksum of a file, computed if it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)
