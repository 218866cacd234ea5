"""Results on disk: written whole or not at all, read back with suspicion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm._flat import differing, flat
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import replace_file

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import Experiment

CHECKPOINTS = "checkpoint"
"""The folder of a run's checkpoints, in the run's own."""


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: an interruption leaves the old one or the new one.

    :param path: the file that is replaced.
    :param text: its new content.
    :raises InputError: if the file cannot be written (no space, no permission), naming it.
    """
    replace_file(path, text.encode(errors="backslashreplace"))  # bytes of a file name that are no text


def write_json(path: Path, content: Any) -> None:
    """Replace a file of JSON atomically.

    :param path: the file that is replaced.
    :param content: plain JSON types.
    :raises ValueError: for a number that JSON does not have (NaN, infinity).
    """
    write_text(path, "".join(_lines(content)) + "\n")


def _lines(content: Any, before: str = "\n") -> Iterator[str]:
    """JSON with a line for every entry, and one for a whole list of numbers: of a matrix, which grows with the square
    of the tasks, a line a row."""
    entries = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if not entries or (isinstance(content, list) and not any(isinstance(entry, dict | list) for entry in content)):
        yield json.dumps(content, allow_nan=False)
        return
    inner = f"{before} "
    begin, end = "{}" if isinstance(content, dict) else "[]"
    for number, entry in enumerate(content):
        yield f"{',' if number else begin}{inner}"
        if isinstance(content, dict):
            yield f"{json.dumps(entry)}: "
            entry = content[entry]
        yield from _lines(entry, inner)
    yield f"{before}{end}"


def read_json(path: Path) -> Any | None:
    """The content of a JSON file.

    :param path: the file that is read.
    :return: plain JSON types; None if the file is missing or no JSON: a truncated file counts as not written.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def read_experiment(path: Path) -> Experiment:
    """What a run was asked for.

    :param path: the ``request.json`` of a run.
    :return: the experiment that was asked for.
    :raises InputError: if the file is damaged or of another version.
    """
    from pydantic import ValidationError

    from avalanche_vlm.commands.requests import Experiment

    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object")
    try:
        found = Experiment.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"it has no {field!r}" if first["type"] == "missing" else f"{field}: {first['msg']}"
        raise InputError(f"{path} is damaged or of an older version: {what}") from error
    if found.model.trust_remote_code:
        raise InputError(f"{path} sets trust_remote_code, and no file may ask that code of a model be run")
    return found


def read_run(folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """What was asked for and what it came to.

    :param folder: the folder of one experiment.
    :return: the experiment, and its result in JSON types.
    :raises InputError: if the folder holds no finished run.
    """
    result = read_json(folder / "result.json")
    if not isinstance(result, dict) or not (folder / "request.json").exists():
        below = sorted(path.parent for path in folder.glob("*/seed-*/result.json"))
        hint = f"; there is one in {below[0]}" if below else ""
        raise InputError(f"{folder} holds no finished run (request.json and result.json){hint}")
    asked = read_experiment(folder / "request.json")
    if "matrix" not in result or "tasks" not in result:
        raise InputError(f"{folder / 'result.json'} is damaged: it has no matrix or no tasks")
    return asked, result


def confirm(
    folder: Path, request: Experiment, result: dict[str, Any], protocol: dict[str, Any], what: str = "a result"
) -> None:
    """Refuse a result that was obtained under other conditions than those of now: data, weights or resources that have
    changed since, though the words that name them are the same.

    :param folder: the folder of the result.
    :param request: what is asked for now, which is what was asked for then.
    :param result: what ``result.json`` holds.
    :param protocol: the protocol of what would be run now.
    :param what: what the folder holds, as the sentence names it.
    :raises InputError: naming the first fact that differs, and the file that it is about.
    """
    from avalanche_vlm.evaluation.comparable import difference

    stored = result.get("protocol")
    stored = stored if isinstance(stored, dict) else {}
    name = difference(stored, protocol)
    if name is None:
        return
    there, now = flat(stored).get(name), flat(protocol).get(name)
    if there is None:
        raise InputError(f"{folder} holds {what} of an older version, which does not say {name}: choose another --out")
    stream, model = request.stream, request.model
    subjects = {
        "data.": stream.data or stream.benchmark,
        "prompts": stream.options.get("class_names") or stream.data or stream.benchmark,
        "weights.": model.pretrained or model.name,
        "resources.reference.": stream.reference,
        "resources.generator.": stream.generator,
    }
    subject = next((of for start, of in subjects.items() if of and name.startswith(start)), None)
    if subject is None:
        sentence = f"{folder} holds {what} with {name} = {there!r}, which is now {now!r}"
    else:
        sentence = f"{subject} has changed since {folder} was run ({name} was {there!r} and is {now!r})"
    raise InputError(f"{sentence}: choose another --out, or move that folder away to run it again")


def finished(folder: Path, request: Experiment) -> tuple[dict[str, Any], dict[str, float]] | None:
    """A result and its timing, if this very request was run to its end.

    :param folder: the folder of one recipe and seed.
    :param request: what is asked for now.
    :return: result and timing, empty if it could not be written; None if there is no finished result.
    :raises InputError: if the folder holds the result of another request, or of one that cannot be read.
    """
    result, timing = read_json(folder / "result.json"), read_json(folder / "timing.json")
    if not isinstance(result, dict) or "metrics" not in result:
        return None
    _same_request(folder, request, "a result")
    return result, timing if isinstance(timing, dict) else {}


def unfinished(folder: Path, request: Experiment) -> dict[str, Any] | None:
    """What decides the figures of an interrupted run, if this very request was begun and has checkpoints. The start of
    another request, of which nothing was trained, is forgotten.

    :param folder: the folder of one recipe and seed, without a finished result.
    :param request: what is asked for now.
    :return: the run's protocol, flat; None if there is nothing to go on from.
    :raises InputError: if the folder holds the checkpoints of another request, or of one that cannot be read.
    """
    from avalanche_vlm.training.checkpoint.folder import holds_checkpoints, noted_in, remove_checkpoints

    checkpoints = folder / CHECKPOINTS
    if not holds_checkpoints(checkpoints):
        return None
    noted = noted_in(checkpoints) or {}
    try:
        _same_request(folder, request, "an unfinished run", f", or remove {checkpoints} to start it anew")
    except InputError:
        place = noted.get("position", {})
        nothing = place.get("experience") == 0 and place.get("stage") == "start"
        if not nothing or any(checkpoints.glob("*-within-*.json")):
            raise
        remove_checkpoints(checkpoints)
        return None
    return noted.get("conditions")


def _same_request(folder: Path, request: Experiment, what: str, hint: str = "") -> None:
    """Refuse what was asked for otherwise."""
    try:
        stored, wanted = read_experiment(folder / "request.json").stored(), request.stored()
    except InputError as error:
        raise InputError(f"{error}: choose another --out{hint}") from error
    from avalanche_vlm.evaluation.comparable import PLACES

    for key in differing([wanted, stored]):
        there, asked = flat(stored).get(key), flat(wanted).get(key)
        if key in PLACES.values() and there is not None and asked is not None:
            continue  # what lies there decides, and that is compared by its content
        raise InputError(f"{folder} holds {what} with {key} = {there!r}, not {asked!r}: choose another --out{hint}")
