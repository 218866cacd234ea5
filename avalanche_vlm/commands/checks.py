"""What can be refused before anything heavy is imported: names, options, paths, headers of tables.

All of it is looked at again where it is used, in the same words: what passes here need not be usable.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from avalanche_vlm.artifacts.layout import known_version, model_version, version_folder, version_names
from avalanche_vlm.benchmarks.aside import published_aside, refuse_no_aside
from avalanche_vlm.benchmarks.declaration import Benchmark
from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.benchmarks.sources.columns import COLUMNS, TASKS_FROM, kind_of, task_said, under_our_names
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import format_of, read_rows
from avalanche_vlm.commands.requests.deploying import ExportRequest, ServeRequest, UseRequest
from avalanche_vlm.commands.requests.living import DiffRequest, RollbackRequest, UpdateRequest, VersionsRequest
from avalanche_vlm.commands.requests.parts import ModelRequest, Part, StreamRequest, TrainingRequest
from avalanche_vlm.commands.requests.shared import DATA_OPTIONS, FILES, SIZES
from avalanche_vlm.commands.requests.training import AdviseRequest, CompareRequest, DiagnoseRequest, RunRequest
from avalanche_vlm.commands.store import read_run
from avalanche_vlm.commands.wanted import CATALOGUED, assigned, complete, lacking, refuse_unread, takes_resources
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.names import architectures, refuse_unknown_name
from avalanche_vlm.report.tracking.known import refuse_no_tracker
from avalanche_vlm.storage.durable import check_length
from avalanche_vlm.studies.elsewhere.known import refuse_no_engine
from avalanche_vlm.training.settings import TrainSettings

BELOW = 400
"""Bytes that the names of what a command writes into its folder take at most: recipe, seed, version, object."""
_SCHEMES = ("hf-hub:", "local-dir:")
_WHOLE = ("csv", "tsv")
"""Formats whose first row has every column of the table."""


def check(request: Part) -> None:
    """Refuse what cannot be meant, as far as that is known without torch.

    :param request: what was asked for.
    :raises InputError: in one sentence, for a name that does not exist, an option or value that nothing takes, and a
        file or folder that is not there.
    """
    for name in ("out", "target", "pictures"):
        if (path := getattr(request, name, None)) is not None:
            check_length(path, 0 if isinstance(request, UseRequest) else BELOW)
    if isinstance(request, ServeRequest):
        refuse_no_server()
    if isinstance(request, UseRequest | ExportRequest | ServeRequest):
        version_folder(request.model)
    if isinstance(request, UpdateRequest) or (isinstance(request, VersionsRequest) and not version_names(request.out)):
        model_version(request.out)
    if isinstance(request, RollbackRequest):
        known_version(request.out, request.version)
    if isinstance(request, DiffRequest):
        for version in (request.first, request.second):
            known_version(request.out, version)
    if isinstance(request, DiagnoseRequest):
        read_run(request.out)
    if isinstance(request, RunRequest | CompareRequest):
        refuse_no_tracker(request.log)
    if isinstance(request, CompareRequest | AdviseRequest):
        refuse_no_engine(request.engine.name)
    if isinstance(request, UseRequest | TrainingRequest | ServeRequest):
        refuse_no_device(request.device)
    if isinstance(request, TrainingRequest):
        if complete():
            check_recipes(request)
        for one in request.each():
            TrainSettings(**one.train.given())
    if isinstance(request, RunRequest | CompareRequest | AdviseRequest):
        check_model(request.model)
        check_stream(request.stream)


def refuse_no_server() -> None:
    """Refuse to serve without the libraries that do it, which an extra brings.

    :raises InputError: if one of them is not installed.
    """
    for name, called in (("fastapi", "FastAPI"), ("uvicorn", "uvicorn"), ("python_multipart", "python-multipart")):
        if find_spec(name) is None:
            raise InputError(f"serve needs {called}: pip install 'avalanche-vlm[serve]'")


def refuse_no_device(asked: str) -> None:
    """Refuse what is no device at all.

    :param asked: the word that was written.
    :raises InputError: unless it is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", asked):
        raise InputError(f"--device is auto, cpu, cuda or cuda:N, not {asked!r}")


def check_recipes(request: TrainingRequest) -> None:
    """Refuse recipes that do not exist or lack something, and options that they do not take.

    :param request: what was asked for.
    :raises InputError: for the first of them.
    """
    left_out = isinstance(request, CompareRequest) and not request.chosen
    for name in request.recipe_names():
        CATALOGUED.get(name)
    for name in request.recipe_names():
        if not isinstance(request, AdviseRequest | UpdateRequest):
            refuse_unread(request, CATALOGUED)
            if not left_out and (why := lacking(request.stream, name, CATALOGUED)):
                raise InputError(why)
        for one in request.each():
            list(assigned(one, name, CATALOGUED))


def check_model(model: ModelRequest) -> None:
    """Refuse a model that nobody knows, and weights that are not there.

    :param model: the model that was asked for.
    :raises InputError: in the words of :func:`~avalanche_vlm.models.factory.create_vlm`.
    """
    if model.name.startswith(_SCHEMES):
        return
    if model.name != "tiny":
        refuse_unknown_name(model.name, architectures())
    tag = model.pretrained
    if tag is not None and "/" in tag and not Path(tag).exists():
        raise InputError(f"there is no checkpoint file at {tag}")


def check_stream(stream: StreamRequest) -> None:
    """Refuse a benchmark's options that it does not have, data that are not there, and a table without the columns that
    were named.

    :param stream: the stream that was asked for.
    :raises InputError: in the words of what reads it.
    """
    refuse_no_aside(stream.held_out, None if stream.held_out_root is None else Path(stream.held_out_root).expanduser())
    if stream.options.get("check") == "none" and "check_workers" in stream.options:
        raise does_not_apply("check_workers", "--check none, which reads no image")
    for option in ("data", "reference"):
        path = getattr(stream, option)
        for one in stream.held_out:
            if path is not None and Path(path).exists() and Path(one).exists() and Path(path).samefile(one):
                raise InputError(f"--held-out {one} is what --{option} trains on, so it is not held out")
    if stream.data is None:
        assert stream.benchmark is not None
        _refuse_unusable(stream, stream.benchmark)
        return
    data = Path(stream.data)
    if not data.exists():
        raise InputError(f"--data: there is no file or folder at {stream.data}")
    for option in stream.options:
        if option in (*SIZES, *FILES):
            raise does_not_apply(option, "--data")
    found = format_of(data)
    _refuse_no_reference(stream)
    if found.name in _WHOLE:
        check_header(data, stream.options)


def _refuse_no_reference(stream: StreamRequest) -> None:
    if stream.reference is not None and not Path(stream.reference).exists():
        list(read_rows(Path(stream.reference), Problems("skip")))  # which says that it is not there


def check_header(table: Path, options: dict[str, Any]) -> None:
    """Refuse a table that cannot be read, or has not the columns that it is said to have.

    :param table: a table whose rows all have the columns of the first.
    :param options: what the user says of it: its kind, and names of columns.
    :raises InputError: in the words of what reads all of it.
    """
    first = next(iter(read_rows(table, Problems("skip"))), None)
    if first is None:
        return
    by, tasks = task_said({of: options.get(f"{of}_column") for of in TASKS_FROM})
    said = {column: tasks if column == "task" else options.get(f"{column}_column") for column in COLUMNS}
    kind_of(under_our_names([first], said, table, by), options.get("kind"), said, table)


def does_not_apply(option: str, where: str) -> InputError:
    """The refusal of an option.

    :param option: the option's name.
    :param where: what it does not apply to.
    """
    return InputError(f"--{option.replace('_', '-')} does not apply to {where}")


def _refuse_unusable(stream: StreamRequest, name: str) -> None:
    refuse_what_it_has(stream, name)
    declared = get_benchmark(name)
    taken = set(declared.accepts) or _parameters(declared.factory)
    flagged = [option for option in stream.options if option in (*SIZES, *FILES, *DATA_OPTIONS)]
    for option in flagged:
        if taken is not None and option not in taken:
            raise does_not_apply(option, name)
    if declared.check is not None:
        declared.check(stream_options(stream, declared))
    if declared.titles is not None and stream.held_out:
        trained = declared.titles(stream_options(stream, declared))
        for one in stream.held_out:
            if (aside := published_aside(one)) is not None and aside.title in trained:
                raise InputError(
                    f"--held-out {one}: {name} trains on {aside.title} itself, so it is not held out; what the other "
                    "tasks do to it is in the matrix"
                )
    _refuse_no_reference(stream)


def refuse_what_it_has(stream: StreamRequest, name: str) -> None:
    """Refuse what a benchmark does not take beside its own: prompts, and reference pairs and a generator unless it is a
    published one, which brings none.

    :param stream: the stream that was asked for.
    :param name: the benchmark's name.
    :raises InputError: for the first of them.
    """
    bare = takes_resources(stream)
    for option in ("reference", "generator", "template"):
        if getattr(stream, option) is not None and (option == "template" or not bare):
            where = "only to --data" if option == "template" else "only to --data and published benchmarks"
            raise does_not_apply(option, f"{name}, {where}")


def stream_options(stream: StreamRequest, declared: Benchmark) -> dict[str, Any]:
    """The options that a benchmark is given, but for the seed.

    :param stream: the stream that was asked for.
    :param declared: what is known of the benchmark.
    """
    given = dict(stream.options)
    if stream.label_space:
        given["label_space"] = stream.label_space
    if stream.order:
        given[declared.order or "order"] = list(stream.order)
    if stream.on_error != "raise":
        given["on_error"] = stream.on_error
    return given


def _parameters(factory: Any) -> set[str] | None:
    """The names of a function's parameters, read from its source; None where that does not tell, or it takes any."""
    module, _, name = factory.partition(":") if isinstance(factory, str) else ("", "", "")
    try:
        found = find_spec(module) if module.startswith("avalanche_vlm.") else None
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8")) if found and found.origin else None
    except (ImportError, OSError, SyntaxError):
        return None
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.FunctionDef) and statement.name == name and statement.args.kwarg is None:
            arguments = statement.args
            return {of.arg for of in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    return None
