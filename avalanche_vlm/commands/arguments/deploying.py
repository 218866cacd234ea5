"""Arguments of the commands that use a saved model: ``predict``, ``retrieve``, ``export`` and ``serve``."""

from __future__ import annotations

import argparse
from typing import Any

from avalanche_vlm.commands.arguments import shared, values

TARGETS = ("open_clip", "peft", "hub-folder", "torch-export")
"""What ``export`` writes."""


def add_deploying_commands(commands: Any) -> None:
    """The parsers of ``predict``, ``retrieve``, ``export`` and ``serve``.

    :param commands: what the program's parser keeps its commands in, which gets them.
    """
    predict = commands.add_parser(
        "predict",
        help="classes of images by a saved model, with probabilities",
        description="The most probable classes of images by a saved model: which module has answered, and whether its "
        "router calls an image out of distribution. Images that cannot be read are listed, and nothing else is lost.",
    )
    predict.add_argument("model", metavar="DIR", help="folder of a saved model, such as a run's")
    predict.add_argument("paths", metavar="PATH", nargs="+", help="image files, folders of them, and tables")
    classes = predict.add_argument_group("classes")
    one = classes.add_mutually_exclusive_group()
    one.add_argument(
        "--labels", type=values.names, metavar="A,B,C", help="classes to choose from (default: the model's)"
    )
    one.add_argument("--label-file", metavar="FILE", help="file with a class a line")
    classes.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for a label, repeatable")
    values.add_number(classes, "top_k", says="classes per image", unset="5", default=5, metavar="K")
    retrieve = commands.add_parser(
        "retrieve",
        help="images for texts, or texts for an image, by a saved model",
        description="The images that are most similar to each text by a saved model, or the texts to an image.",
    )
    retrieve.add_argument("model", metavar="DIR", help="folder of a saved model, such as a run's")
    search = retrieve.add_argument_group("search")
    search.add_argument(
        "--images", metavar="PATH", nargs="+", help="image files, folders of them, and tables to search"
    )
    search.add_argument("--query", action="append", metavar="TEXT", help="text to search images for, repeatable")
    search.add_argument("--image", metavar="FILE", help="image to search texts for")
    search.add_argument("--texts", metavar="FILE", help="file with a text a line to search")
    values.add_number(search, "top_k", says="images per text, or texts", unset="10", default=10, metavar="K")
    for command in (predict, retrieve):
        _add_common(command)
    export = commands.add_parser(
        "export",
        help="a saved model for open_clip, peft, a hub, or torch alone",
        description="Write a saved model for other programs: a folder of open_clip's, of peft's, one with a model card "
        "that is ready for upload, or programs of torch.export.",
    )
    export.add_argument("model", metavar="DIR", help="folder of a saved model, such as a run's")
    export.add_argument("--to", required=True, choices=TARGETS, help="what is written")
    export.add_argument("--out", required=True, metavar="FOLDER", help="the folder that is made")
    export.add_argument("--module", metavar="NAME", help="the one that answers every image, where a router chooses")
    values.add_number(export, "threads")
    _add_serve(commands)


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="a saved model that answers over HTTP",
        description="Answer requests of this machine or, with --host, of others: classes of an image, images for a "
        "text, and which version answers. When update or rollback makes another version the model, that one answers.",
    )
    serve.add_argument("model", metavar="DIR", help="folder of a saved model, such as a run's")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    values.add_number(serve, "port", default=8000)
    shared.add_manners(serve)
    serve.add_argument("--images", metavar="PATH", nargs="+", help="image files, folders of them, and tables to search")
    limits = serve.add_argument_group("limits")
    values.add_number(limits, "body_bytes", dest="body_bytes", default=10_000_000)
    values.add_number(limits, "request_pixels", dest="request_pixels", default=40_000_000)
    values.add_number(limits, "requests", dest="requests", default=8)
    values.add_number(limits, "request_seconds", dest="request_seconds", default=30.0, metavar="SECONDS")
    _add_reading(serve)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help="file of answers, .csv or .jsonl (default: CSV on the output)")
    shared.add_manners(parser)
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("reading")
    reading.add_argument("--image-column", metavar="NAME", help="column of tables with image paths (default: image)")
    reading.add_argument("--image-root", metavar="DIR", help="what image paths of tables are relative to")
    values.add_number(reading, "batch_size", says="images that are read and encoded at a time", unset="64", default=64)
    values.add_number(reading, "num_workers", says="processes that read images", default=0)
    reading.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
