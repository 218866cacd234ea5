"""A run's request on disk: a file for ``avalanche-vlm run --config``, which says every default as well.

What it says under ``kept`` the command leaves unread: what the run is known by, with the versions that ran it, and the
digest that seals it all for those who read results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avalanche_vlm.commands.arguments.configuration import COMMAND, KEPT
from avalanche_vlm.commands.requests.experiment import LATER, REQUEST, Experiment
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.storage.json_files import read_json_file
from avalanche_vlm.storage.yaml_files import WRITTEN_BYTES, parse_yaml, plain_types, read_yaml_file, yaml_text

FULL = "full"
"""That no size of a first look stands for what is not said."""

NAMES: Mapping[str, str] = {
    **{name: name for name in ("recipe", "seed", "device")},
    **{f"stream.{name}": name for name in ("benchmark", "data", "label_space", "order", "template", "reference")},
    **{f"stream.{name}": name for name in ("on_error", "generator", "held_out", "held_out_root")},
    "stream.seed": "data_seed",
    "stream.options": "option",
    "model.name": "model",
    **{f"model.{name}": name for name in ("pretrained", "precision", "image_size")},
    **{f"train.{name}": name for name in ("lr", "epochs", "iterations", "batch_size", "weight_decay", "warmup")},
    **{f"train.{name}": name for name in ("max_grad_norm", "label_smoothing", "train_classes", "train_templates")},
    **{f"train.{name}": name for name in ("negatives", "amp", "eval_every")},
    **{place: place.partition(".")[2] for place in LATER},
    "train.num_workers": "workers",
    "train.eval_tasks": "eval",
    "train.rates": "rate",
    "recipe_options": "set",
}
"""What the parts of an experiment are called on the command line."""

_EMPTY: Mapping[str, Any] = {"held_out": [], "option": {}, "set": {}}
"""What nothing said stands for, where it is not None."""
_SAID = ("max_grad_norm",)
"""What the word ``none`` stands for."""


def as_configuration(asked: Experiment, full: bool) -> dict[str, Any]:
    """The file of a run.

    :param asked: the experiment that is asked for.
    :param full: whether its benchmark has sizes of a first look, none of which is meant by what is not said.
    :return: names and values in JSON types.
    """
    stored = asked.stored()
    found: dict[str, Any] = {COMMAND: "run", **({FULL: True} if full else {})}
    for place, name in NAMES.items():
        outer, _, inner = place.partition(".")
        value = stored[outer][inner] if inner else stored[outer]
        if value is None and name in _SAID:
            value = "none"
        if value is not None and value not in ([], {}):
            found[name.replace("_", "-")] = value
    sealed = REQUEST.sealed({"run": asked.run_id, **stored})
    found[KEPT] = {name: sealed[name] for name in ("format", "run", "versions", "sha256")}
    return found


def from_configuration(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What was sealed, from the file of a run.

    :param found: names and values in JSON types.
    :param path: where they are from, for the error.
    :raises InputError: if there is another name than those that are written.
    """
    kept = found.get(KEPT)
    if not isinstance(kept, dict):
        raise InputError(f"{path} does not say what its run is known by: it was not written by a run")
    content: dict[str, Any] = {"stream": {}, "model": {}, "train": {}}
    rest = {name: value for name, value in found.items() if name not in (COMMAND, FULL, KEPT)}
    for place, name in NAMES.items():
        if place in LATER and name.replace("_", "-") not in rest:
            continue
        value = rest.pop(name.replace("_", "-"), _EMPTY.get(name))
        if value == "none" and name in _SAID:
            value = None
        outer, _, inner = place.partition(".")
        if inner:
            content[outer][inner] = value
        else:
            content[outer] = value
    if "trust-remote-code" in rest:
        raise InputError(f"{path} sets trust_remote_code, and no file may ask that code of a model be run")
    if rest or found.get(COMMAND) != "run":
        raise InputError(f"{path} is damaged: it has {next(iter(rest), COMMAND)}, which is never written")
    return {**kept, **content}


def write_stored(path: Path, asked: Experiment, full: bool) -> None:
    """Write down what a run is asked for.

    :param path: the file that is replaced.
    :param asked: the experiment that is asked for.
    :param full: whether its benchmark has sizes of a first look.
    :raises InputError: if it cannot be written, or could not be read again.
    """
    again = f"avalanche-vlm run --config {path.name}"
    text = f"# {again} goes on with this run, and with --out ANOTHER runs it anew.\n"
    text += yaml_text(as_configuration(asked, full))
    if len(encoded := text.encode()) > WRITTEN_BYTES:
        raise InputError(f"cannot write {path}: it would be larger than what is read of it, {WRITTEN_BYTES:,} bytes")
    REQUEST.checked(from_configuration(plain_types(parse_yaml(text, path)), path), path)
    replace_file(path, encoded)


def read_stored(path: Path) -> Experiment:
    """What a run was asked for.

    :param path: the file of a run, YAML; or JSON, as earlier versions wrote it.
    :raises InputError: if the file is damaged, was changed, or is of another version.
    """
    if path.suffix == ".json":
        content = read_json_file(path)
        model = content.get("model") if isinstance(content, dict) else None
        if isinstance(model, dict) and model.get("trust_remote_code"):
            raise InputError(f"{path} sets trust_remote_code, and no file may ask that code of a model be run")
    else:
        content = from_configuration(plain_types(read_yaml_file(path)), path)
    kept = REQUEST.checked(content, path)
    asked = kept.experiment()
    if kept.run != asked.run_id:
        raise InputError(f"{path} is damaged: run is {kept.run!r}, and not what tells its request from others")
    return asked
