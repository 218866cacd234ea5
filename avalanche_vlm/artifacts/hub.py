"""A folder that can be uploaded as it is: the files of a saved model without its training, and a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avalanche_vlm.artifacts.bases import EMBEDDED
from avalanche_vlm.artifacts.description import checked_file, digests, write_description
from avalanche_vlm.artifacts.loading import SavedModel, open_saved
from avalanche_vlm.artifacts.model_card import model_card
from avalanche_vlm.artifacts.open_clip_folder import write_open_clip
from avalanche_vlm.artifacts.training_files import TRAINING
from avalanche_vlm.models.folders import LOCAL
from avalanche_vlm.units import visible

CARD = "README.md"


def write_hub_folder(saved: SavedModel, folder: Path) -> list[str]:
    """Write a saved model so that others can load it.

    The state of its training stays behind, and with it all samples of the user's; paths of this machine are not told.
    A base that lies on this machine alone comes along.

    :param saved: the saved model that is copied.
    :param folder: a folder that is there and empty.
    :return: sentences on what the folder holds and what it does not.
    :raises InputError: if a file of the model is missing, truncated or changed, or what was written cannot be loaded.
    """
    description = saved.description
    left = [name for name in description.files if name == f"{TRAINING}.json" or name.startswith("objects/")]
    for name in description.files:
        if name not in left:
            source = checked_file(saved.folder, name, description.files)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    said = [f"{CARD} leaves the license to you"]
    if left:
        said.append("the state of training stays behind: the model predicts, and cannot go on learning")
    base = description.base
    origin = base.origin
    if origin is not None and _lies_here(origin.name, origin.pretrained) and not base.embedded:
        model = saved.base()
        (folder / EMBEDDED).mkdir()
        write_open_clip(folder / EMBEDDED, model, origin.origin().config)
        base = base.model_copy(update={"embedded": True})
        said.append("the base comes along, since its weights lie on this machine alone")
    if origin is not None:
        named = {"name": _name(origin.name), "pretrained": _name(origin.pretrained)}
        base = base.model_copy(update={"origin": origin.model_copy(update=named)})
    else:
        said.append("the base was built by hand: who loads the model has to make it in the same way")
    found = description.model_copy(
        update={
            "base": base,
            "raw_data": False,
            "protocol": without_paths_of_here(description.protocol),
            "about": without_paths_of_here(description.about),
            "files": digests(folder),
        }
    )
    write_description(folder, found)
    if origin is not None:
        open_saved(folder).model()
    (folder / CARD).write_text(visible(model_card(found)), encoding="utf-8")
    return said


def without_paths_of_here(values: Any) -> Any:
    """The same without where things lie on this machine.

    :param values: plain JSON types.
    :return: these values, with the last part of every text that is a whole path.

    >>> without_paths_of_here({"data": {"path": "/home/ann/birds", "seed": 1}, "order": ["a/b"]})
    {'data': {'path': 'birds', 'seed': 1}, 'order': ['a/b']}
    """
    if isinstance(values, Mapping):
        return {name: without_paths_of_here(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_paths_of_here(value) for value in values]
    return _name(values) if isinstance(values, str) else values


def _name(text: str | None) -> str | None:
    """Of a whole path the last part, of other texts all."""
    start, path = (LOCAL, text.removeprefix(LOCAL)) if text and text.startswith(LOCAL) else ("", text or "")
    return start + Path(path).name if path and Path(path).is_absolute() else text


def _lies_here(name: str, pretrained: str | None) -> bool:
    return name.startswith(LOCAL) or (pretrained is not None and Path(pretrained).is_absolute())
