"""Arguments of the commands that show what there is: ``report``, ``list`` and ``doctor``."""

from __future__ import annotations

from typing import Any


def add_showing_commands(commands: Any) -> None:
    """The parsers of ``report``, ``list`` and ``doctor``.

    :param commands: what the program's parser keeps its commands in, which gets them.
    """
    report = commands.add_parser(
        "report",
        help="one page of what a folder holds, or of two results side by side, as HTML, Markdown and JSON",
        description="Write DIR/report.html, report.md and report.json: results, diagnosis and advice that DIR holds. "
        "With OTHER, put two results side by side, each a run or all seeds of a recipe, in DIR/side-by-side.html, "
        "side-by-side.md and side-by-side.json.",
    )
    report.add_argument("out", metavar="DIR", help="a folder of run, compare, diagnose or advise")
    report.add_argument(
        "beside", nargs="?", metavar="OTHER", help="the folder of a run, or of a recipe's seeds, to put beside DIR"
    )
    report.add_argument("--no-pictures", action="store_true", help="leave out the test pictures that runs have kept")
    listing = commands.add_parser(
        "list",
        help="recipes, benchmarks, models and formats that there are, or all about one of them",
        description="What there is, each with a line; with NAME, all about one of them.",
    )
    listing.add_argument("what", choices=("recipes", "benchmarks", "models", "formats"))
    listing.add_argument("name", nargs="?", metavar="NAME", help="the one to describe")
    listing.add_argument("--json", action="store_true", help="as JSON")
    doctor = commands.add_parser(
        "doctor",
        help="versions, device, threads and caches, and what is missing for what",
        description="What is here, and what is missing for what: versions, device, threads, caches with their sizes, "
        "and the extras. It works where torch does not.",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
