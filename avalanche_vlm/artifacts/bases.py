"""The model that recipes were built on: made again from its origin, from the folder, or given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm._content import digest
from avalanche_vlm._generators import generators_kept
from avalanche_vlm.artifacts.description import Base, Description, checked_file
from avalanche_vlm.artifacts.open_clip_folder import CONFIG, WEIGHTS
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.settings import tensor_content
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.fingerprint import weights_of
from avalanche_vlm.models.folders import LOCAL
from avalanche_vlm.models.origin import RANDOM, Origin

EMBEDDED = "base"
"""Folder of an embedded base in a version's folder."""

_PROBE = ("a", "a photo of a cat.", "Two dogs, 3 red stars & a naïve café", "", "ζ 漢字 🙂", "long " * 200)


def made_again(origin: Origin) -> VLM:
    """A model like the one whose origin it is, before anything was trained or built on it.

    The global random generators are afterwards where they were before.

    :param origin: how the model was made. Random weights that cannot be drawn again are drawn from seed 0.
    :raises InputError: if it cannot be made, as ``create_vlm`` says it.
    """
    with generators_kept():
        if origin.is_random:
            torch.default_generator.manual_seed(origin.seed or 0)
        return create_vlm(origin.name, origin.pretrained, precision=origin.precision, image_size=origin.image_size)


def base_of(folder: Path, description: Description, given: VLM | None, class_names: list[str]) -> VLM:
    """The base of a saved model.

    :param folder: the version's folder.
    :param description: what its ``model.json`` says.
    :param given: the base itself, of a model that was built by the user's own hands, changed in place; None for others.
    :param class_names: names that the model's tokenizer must read as it did.
    :return: a model whose content is that of the base which was saved.
    :raises InputError: in one sentence, if it cannot be had, is another one than it was, or is given where it need not
        be.
    """
    base = description.base
    if base.origin is None:
        model = _given(folder, given, description.name)
    elif given is not None:
        raise InputError(f"{folder} knows how its base is made, {base.origin.origin()}: base is for models of your own")
    elif base.embedded:
        model = _embedded(folder, base.origin.origin(), description.files, description.name)
    else:
        model = _referred_to(folder, base.origin.origin())
    _check_same(folder, base, model)
    if description.tokenizer != tokenizer_of(model, class_names):
        raise InputError(
            f"the tokenizer of {model.name} gives other tokens than when {folder} was saved: prompts would be read "
            "otherwise"
        )
    return model.unfreeze(*model.frozen).freeze(*base.frozen)


def tokenizer_of(model: VLM, texts: list[str]) -> dict[str, Any]:
    """What must be said of a tokenizer to know it again.

    :param model: the model that has it.
    :param texts: texts that it must read as it did: names of classes.
    :return: plain JSON types: its class, and a digest of the tokens of some texts, these among them.
    """
    kind = type(model.tokenizer)
    tokens = model.tokenizer([*_PROBE, *texts])
    return {"kind": f"{kind.__module__}.{kind.__qualname__}", "tokens": digest([tensor_content(tokens)])}


def _given(folder: Path, given: VLM | None, name: str) -> VLM:
    if given is None:
        raise InputError(
            f"{folder} is of a model that was built by hand, {name}: make its base in the same way and give it, "
            "load(DIR, base=model)"
        )
    return given


def _embedded(folder: Path, origin: Origin, files: Mapping[str, Any], name: str) -> VLM:
    needed = [f"{EMBEDDED}/{file}" for file in (CONFIG, WEIGHTS)]
    others = [file for file in files if file.startswith(f"{EMBEDDED}/")]
    checked = {file: checked_file(folder, file, files) for file in dict.fromkeys([*needed, *others])}
    config, weights = (checked[file] for file in needed)
    with generators_kept():
        if origin.name == "tiny":
            model = create_vlm("tiny", weights, precision=origin.precision, image_size=origin.image_size)
        else:
            model = create_vlm(f"{LOCAL}{config.parent}", precision=origin.precision)
    model.origin, model.name = origin, name
    return model


def _referred_to(folder: Path, origin: Origin) -> VLM:
    try:
        return made_again(origin)
    except InputError as error:
        raise InputError(
            f"{folder} is saved without its base, {origin}, which cannot be had: {error} (--embed-base saves it along)"
        ) from error


def _check_same(folder: Path, base: Base, model: VLM) -> None:
    """Refuse a base that is not the one which the model was trained on."""
    if not base.weights:
        return
    found = weights_of(model)
    # Layers are told by the words of torch, which another version of it may choose otherwise: they decide where nothing
    # else says what the architecture is.
    names = ("content", "precision") if base.origin is not None else ("layers", "content", "precision")
    for name in names:
        if found[name] != base.weights.get(name):
            drawn = base.origin is not None and base.origin.pretrained == RANDOM
            why = "are drawn otherwise by this version of torch" if drawn else "are others than when it was saved"
            what = "layers" if name == "layers" else "weights"
            raise InputError(f"the {what} of {model.name}, the base of {folder}, {why} ({name} differs)")
