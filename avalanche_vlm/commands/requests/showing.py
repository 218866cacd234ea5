"""What the commands that show what there is are asked: ``report`` and ``list``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from avalanche_vlm.commands.requests.parts import Part, Request


class ReportRequest(Request):
    """``report``: one page of what a folder holds, or of two results side by side.

    :param beside: the folder of the run, or of a recipe's seeds, that is put beside that of ``out``; None for a report
        of one folder.
    :param with_pictures: whether test pictures that runs have kept are in it.
    """

    beside: Path | None = None
    with_pictures: bool = True


class ListRequest(Part):
    """``list``: what there is, or one of them.

    :param what: ``recipes``, ``benchmarks``, ``models`` or ``formats``.
    :param name: the one to describe; None for all names.
    :param as_json: whether it is printed as JSON instead of text.
    """

    what: Literal["recipes", "benchmarks", "models", "formats"]
    name: str | None = None
    as_json: bool = False


class DoctorRequest(Part):
    """``doctor``: what is here, and what is missing for what.

    :param as_json: whether it is printed as JSON instead of text.
    """

    as_json: bool = False


def report_request(options: argparse.Namespace) -> ReportRequest:
    """The request of ``report``.

    :param options: arguments as argparse has parsed them.
    """
    return ReportRequest(out=options.out, beside=options.beside, with_pictures=not options.no_pictures)


def list_request(options: argparse.Namespace) -> ListRequest:
    """The request of ``list``.

    :param options: arguments as argparse has parsed them.
    """
    return ListRequest(what=options.what, name=options.name, as_json=options.json)


def doctor_request(options: argparse.Namespace) -> DoctorRequest:
    """The request of ``doctor``.

    :param options: arguments as argparse has parsed them.
    """
    return DoctorRequest(as_json=options.json)
