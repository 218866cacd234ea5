"""Results on disk: written whole or not at all, read back with suspicion."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from avalanche_vlm._flat import differing, flat
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.results import LEDGER, PARTIAL_RESULT, RESULT, TIMING, KeptResult
from avalanche_vlm.storage.durable import replace_file, write_or_remark
from avalanche_vlm.storage.json_files import TruncatedError, json_lines

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import Experiment
    from avalanche_vlm.studies.outcome import Outcome

CHECKPOINTS = "checkpoint"
"""The folder of a run's checkpoints, in the run's own."""
REQUEST_FILE, RESULT_FILE, TIMING_FILE, LEDGER_FILE = "request.yaml", "result.json", "timing.json", "ledger.json"
"""The files of a run: what was asked for, what it came to, its seconds and its costs."""
OLD_REQUEST = "request.json"
"""What was asked for, as earlier versions wrote it."""
PARTIAL = "partial.json"
"""The rows that a run has come to which is not finished."""
DIAGNOSED, ADVISED = "diagnosis.json", "advice.json"
"""What ``diagnose`` and ``advise`` write."""
RUN = "run"
"""Where a file says which run it is of."""
_ANEW = "choose another --out, or move that folder away to run it again"

RunEntry = dict[str, Any]
"""``result``, ``timing`` and ``ledger`` of a run; the last two are empty where they are not there."""


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
    write_text(path, "".join(json_lines(content)) + "\n")


def write_request(folder: Path, asked: Experiment) -> None:
    """Write down what a run is asked for.

    :param folder: the folder of the run.
    :param asked: the experiment that is asked for.
    :raises InputError: if it cannot be written.
    """
    from avalanche_vlm.benchmarks.registry import get_benchmark
    from avalanche_vlm.commands.requests.stored import write_stored

    name = asked.stream.benchmark
    write_stored(folder / REQUEST_FILE, asked, full=name is not None and bool(get_benchmark(name).quick))
    with suppress(OSError):  # what an earlier version wrote of the same run
        (folder / OLD_REQUEST).unlink(missing_ok=True)


def request_of(folder: Path) -> Path:
    """The file that says what a run was asked for.

    :param folder: the folder of the run.
    :return: its path, whether it is there or not; that of an earlier version where only this one is there.
    """
    path, old = folder / REQUEST_FILE, folder / OLD_REQUEST
    return old if os.path.lexists(old) and not os.path.lexists(path) else path


def write_partial(folder: Path, asked: Experiment, trained: int, rows: Sequence[Sequence[float | None]]) -> None:
    """Write what a run has come to so far.

    :param folder: the folder of the run.
    :param asked: the experiment that is run.
    :param trained: experiences trained so far, 0 or more.
    :param rows: complete rows of the performance matrix in percent, None for a missing score.
    :raises InputError: if it cannot be written.
    """
    known = {"run": asked.run_id, "recipe": asked.recipe, "seed": asked.seed}
    PARTIAL_RESULT.write(folder / PARTIAL, {**known, "unit": "percent", "trained": trained, "matrix": rows})


def read_partial(folder: Path) -> dict[str, Any] | None:
    """What a run has come to that is not finished.

    :param folder: the folder of the run.
    :return: ``recipe``, ``seed``, ``trained`` and ``matrix``; None if it was finished, or begun anew, meanwhile.
    :raises InputError: if the file is damaged, was changed, or is of another run.
    """
    try:
        found = PARTIAL_RESULT.read(folder / PARTIAL)
    except InputError:
        if os.path.lexists(folder / PARTIAL):
            raise
        return None
    request = request_of(folder)
    if os.path.lexists(request) and found["run"] != (run := read_experiment(request).run_id):
        raise InputError(f"{folder / PARTIAL} is of another run ({found['run']}) than {request.name} ({run}): {_ANEW}")
    return dict(found)


def write_outcome(
    folder: Path, asked: Experiment, outcome: Outcome, total_seconds: float, remark: Callable[[str], None]
) -> RunEntry:
    """Write what a run has come to, its result last, which says that all is there. Without the others it is still one.

    :param folder: the folder of the run.
    :param asked: the experiment that was run.
    :param outcome: what it has come to.
    :param total_seconds: seconds of the whole run.
    :param remark: is told if timing or ledger cannot be written.
    :return: what was written.
    :raises InputError: if the result cannot be written.
    """
    run = asked.run_id
    timing = {"run": run, **outcome.timing, "total_seconds": round(total_seconds, 2)}
    ledger = {"run": run, **outcome.ledger}
    for name, document, content in ((TIMING_FILE, TIMING, timing), (LEDGER_FILE, LEDGER, ledger)):
        write_or_remark(partial(document.write, folder / name, content), remark)
    result = cast("KeptResult", {"run": run, **outcome.result})
    RESULT.write(folder / RESULT_FILE, result)
    return _entry(result, timing, ledger)


def read_experiment(path: Path) -> Experiment:
    """What a run was asked for.

    :param path: the ``request.yaml`` of a run, or ``request.json`` of an earlier version.
    :return: the experiment that was asked for.
    :raises InputError: if the file is damaged, was changed, or is of another version.
    """
    from avalanche_vlm.commands.requests.stored import read_stored

    return read_stored(path)


def read_entry(folder: Path) -> RunEntry | None:
    """What a run has come to, with its timing and ledger as far as they are there.

    :param folder: the folder of one run.
    :return: ``result``, ``timing`` and ``ledger``; None if there is no result.
    :raises InputError: if a file is damaged, was changed, or belongs to another run than the others beside it.
    """
    path = folder / RESULT_FILE
    if not os.path.lexists(path):
        return None
    result = RESULT.read(path)
    found: dict[str, Any] = {}
    for name, document in ((TIMING_FILE, TIMING), (LEDGER_FILE, LEDGER)):
        if not os.path.lexists(folder / name):
            continue
        try:
            found[name] = document.read(folder / name)
        except TruncatedError as error:
            raise InputError(f"{error}: remove it, and the result stands without it") from error
        _check_run(folder, result["run"], name, found[name]["run"])
    if os.path.lexists(request := request_of(folder)):
        _check_request(folder, read_experiment(request), request.name, result)
    return _entry(result, found.get(TIMING_FILE, {}), found.get(LEDGER_FILE, {}))


def read_run(folder: Path) -> tuple[Experiment, KeptResult]:
    """What was asked for and what it came to.

    :param folder: the folder of one experiment.
    :return: the experiment, and its result in JSON types.
    :raises InputError: if the folder holds no finished run, or a file of it is damaged or of another run.
    """
    entry = read_entry(folder)
    if entry is None or not request_of(folder).exists():
        below = sorted(path.parent for path in folder.glob(f"*/seed-*/{RESULT_FILE}"))
        hint = f"; there is one in {below[0]}" if below else ""
        raise InputError(f"{folder} holds no finished run ({REQUEST_FILE} and {RESULT_FILE}){hint}")
    return read_experiment(request_of(folder)), entry["result"]


def check_first_version(folder: Path, run: str) -> None:
    """Refuse a first version of a model that another run has left.

    :param folder: the folder of a run.
    :param run: what the run is known by.
    :raises InputError: naming both.
    """
    from avalanche_vlm.artifacts.description import read_description
    from avalanche_vlm.artifacts.layout import DESCRIPTION, VERSIONS

    home = folder / VERSIONS / "v1"
    if (home / DESCRIPTION).exists() and (there := read_description(home).about.get(RUN)) != run:
        raise InputError(
            f"{home / DESCRIPTION} is of another run ({there}) than {folder / RESULT_FILE} ({run}): {_ANEW}"
        )


def _entry(result: KeptResult, timing: Mapping[str, Any], ledger: Mapping[str, Any]) -> RunEntry:
    """Result, timing and ledger of one run, which the first names."""
    timing, ledger = ({key: value for key, value in part.items() if key != RUN} for part in (timing, ledger))
    return {"result": result, "timing": timing, "ledger": ledger}


def _check_run(folder: Path, run: str, name: str, there: str) -> None:
    if there != run:
        raise InputError(f"{folder / name} is of another run ({there}) than {folder / RESULT_FILE} ({run}): {_ANEW}")


def _check_request(folder: Path, asked: Experiment, name: str, result: KeptResult) -> None:
    """Refuse a result that is of another request, by what both are known by and by what both say."""
    _check_run(folder, result["run"], name, asked.run_id)
    kind = asked.device.partition(":")[0]  # a result says what computed it and not which of several
    for fact, wanted in (("recipe", asked.recipe), ("seed", asked.seed), ("device", kind)):
        if (there := result["protocol"].get(fact)) != wanted:
            raise InputError(
                f"{folder / RESULT_FILE} says {fact} = {there!r}, and {name} beside it {wanted!r}: {_ANEW}"
            )


def confirm(
    folder: Path, request: Experiment, result: Mapping[str, Any], protocol: dict[str, Any], what: str = "a result"
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
        "tokenizer.": model.name,
        "weights.": model.pretrained or model.name,
        "resources.reference.": stream.reference,
        "resources.generator.": stream.generator,
    }
    subject = next((of for start, of in subjects.items() if of and name.startswith(start)), None)
    if subject is None:
        sentence = f"{folder} holds {what} with {name} = {there!r}, which is now {now!r}"
    else:
        sentence = f"{subject} has changed since {folder} was run ({name} was {there!r} and is {now!r})"
    raise InputError(f"{sentence}: {_ANEW}")


def finished(folder: Path, request: Experiment) -> RunEntry | None:
    """What this very request came to, if it was run to its end.

    :param folder: the folder of one recipe and seed.
    :param request: what is asked for now.
    :return: result, timing and ledger; None if there is no finished result, or it was not all written.
    :raises InputError: if the folder holds the result of another request, or one that was changed or cannot be read.
    """
    if not os.path.lexists(folder / RESULT_FILE):
        return None
    _same_request(folder, request, "a result")
    try:
        return read_entry(folder)
    except TruncatedError:
        return None
    except InputError as error:
        raise InputError(f"{error}{'' if _ANEW in str(error) else f': {_ANEW}'}") from error


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
        stored, wanted = read_experiment(request_of(folder)).stored(), request.stored()
    except InputError as error:
        raise InputError(f"{error}: choose another --out{hint}") from error
    from avalanche_vlm.evaluation.comparable import PLACES

    for key in differing([wanted, stored]):
        there, asked = flat(stored).get(key), flat(wanted).get(key)
        if key in PLACES.values() and there is not None and asked is not None:
            continue  # what lies there decides, and that is compared by its content
        raise InputError(f"{folder} holds {what} with {key} = {there!r}, not {asked!r}: choose another --out{hint}")
