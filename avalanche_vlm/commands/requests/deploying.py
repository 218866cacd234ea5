"""What the commands that use a saved model are asked: ``predict``, ``retrieve``, ``export`` and ``serve``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any

from avalanche_vlm.benchmarks.sources.text import filled_lines
from avalanche_vlm.commands.answer_files import SUFFIXES
from avalanche_vlm.commands.requests.parts import Part, within
from avalanche_vlm.errors import InputError


class UseRequest(Part):
    """What all commands that ask a saved model are asked.

    :param model: the folder of the saved model.
    :param target: file that the answers go to; None for standard output.
    :param top_k: answers per question at most.
    :param image_column: name of the tables' column with image paths; None for the usual ones.
    :param image_root: what relative paths of tables are relative to; None for the table's folder.
    :param batch_size: images that are read and encoded at a time.
    :param workers: processes that read images.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    :param quiet: whether progress bars and remarks are left out.
    :param threads: CPU threads of torch; None for torch's default.
    """

    model: Path
    target: Path | None = None
    top_k: Annotated[int, within("top_k")]
    image_column: str | None = None
    image_root: str | None = None
    batch_size: Annotated[int, within("batch_size")] = 64
    workers: Annotated[int, within("num_workers")] = 0
    device: str = "auto"
    quiet: bool = False
    threads: Annotated[int, within("threads")] | None = None


class PredictRequest(UseRequest):
    """``predict``: classes of images.

    :param paths: image files, folders and tables.
    :param labels: names of the classes that compete; None for the model's own.
    :param templates: prompts around the labels; None for the usual ones.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None


class RetrieveRequest(UseRequest):
    """``retrieve``: images for texts, or texts for an image.

    :param images: image files, folders and tables that are searched; empty where texts are.
    :param queries: texts that images are searched for.
    :param image: the image that texts are searched for; None where images are searched.
    :param texts: texts that are searched.
    """

    images: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    image: str | None = None
    texts: tuple[str, ...] = ()


class ExportRequest(Part):
    """``export``: a saved model for other programs.

    :param model: the folder of the saved model.
    :param to: what the model is exported to.
    :param target: the folder that is made.
    :param module: module that answers every image; None for all of them.
    :param threads: CPU threads of torch; None for torch's default.
    """

    model: Path
    to: str
    target: Path
    module: str | None = None
    threads: Annotated[int, within("threads")] | None = None


class ServeRequest(Part):
    """``serve``: a saved model that answers over HTTP.

    :param model: the folder of the saved model.
    :param host: address that is listened on.
    :param port: port that is listened on; 0 for one that is free.
    :param images: image files, folders and tables that texts are searched in; empty for no search.
    :param image_column: name of the tables' column with image paths; None for the usual ones.
    :param image_root: what relative paths of tables are relative to; None for the table's folder.
    :param batch_size: images of ``images`` that are read and encoded at a time.
    :param workers: processes that read these images.
    :param body_bytes: bytes that a request may send.
    :param request_pixels: pixels that an image in a request may have.
    :param requests: requests that are worked on or wait for it at a time.
    :param request_seconds: seconds from the beginning of a request to its answer.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    :param quiet: whether progress bars and remarks are left out.
    :param threads: CPU threads of torch; None for torch's default.
    """

    model: Path
    host: str = "127.0.0.1"
    port: Annotated[int, within("port")] = 8000
    images: tuple[str, ...] = ()
    image_column: str | None = None
    image_root: str | None = None
    batch_size: Annotated[int, within("batch_size")] = 64
    workers: Annotated[int, within("num_workers")] = 0
    body_bytes: Annotated[int, within("body_bytes")] = 10_000_000
    request_pixels: Annotated[int, within("request_pixels")] = 40_000_000
    requests: Annotated[int, within("requests")] = 8
    request_seconds: Annotated[float, within("request_seconds")] = 30.0
    device: str = "auto"
    quiet: bool = False
    threads: Annotated[int, within("threads")] | None = None


def predict_request(options: argparse.Namespace) -> PredictRequest:
    """The request of ``predict``.

    :param options: arguments as argparse has parsed them.
    :raises InputError: for a file of labels that cannot be read, or a target of another format.
    """
    labels = options.labels if options.label_file is None else _lines(options.label_file)
    templates = None if options.template is None else tuple(options.template)
    return PredictRequest(**_common(options), paths=tuple(options.paths), labels=labels, templates=templates)


def retrieve_request(options: argparse.Namespace) -> RetrieveRequest:
    """The request of ``retrieve``.

    :param options: arguments as argparse has parsed them.
    :raises InputError: unless images are searched for queries, or texts for an image.
    """
    given = {name for name in ("images", "query", "image", "texts") if getattr(options, name)}
    if given not in ({"images", "query"}, {"image", "texts"}):
        raise InputError("retrieve takes --images and --query, or --image and --texts")
    return RetrieveRequest(
        **_common(options),
        images=tuple(options.images or ()),
        queries=tuple(options.query or ()),
        image=options.image,
        texts=() if options.texts is None else _lines(options.texts),
    )


def export_request(options: argparse.Namespace) -> ExportRequest:
    """The request of ``export``.

    :param options: arguments as argparse has parsed them.
    """
    return ExportRequest(
        model=options.model, to=options.to, target=options.out, module=options.module, threads=options.threads
    )


def serve_request(options: argparse.Namespace) -> ServeRequest:
    """The request of ``serve``.

    :param options: arguments as argparse has parsed them.
    """
    return ServeRequest(
        **{name: getattr(options, name) for name in ("model", "host", "port", *_LIMITS, *_READING)},
        images=tuple(options.images or ()),
    )


_LIMITS = ("body_bytes", "request_pixels", "requests", "request_seconds")
_READING = ("image_column", "image_root", "batch_size", "workers", "device", "quiet", "threads")


def _common(options: argparse.Namespace) -> dict[str, Any]:
    target = None if options.out is None else Path(options.out)
    if target is not None and target.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {target}: the name of the file ends in {' or '.join(SUFFIXES)}")
    if target is not None and target.is_dir():
        raise InputError(f"--out {target} is a folder: name a file")
    return {
        "model": options.model,
        "target": target,
        "top_k": options.top_k,
        **{name: getattr(options, name) for name in _READING},
    }


def _lines(path: str) -> tuple[str, ...]:
    """The lines of a file that are not empty."""
    found = tuple(filled_lines(Path(path)))
    if not found:
        raise InputError(f"{path} holds no text")
    return found
