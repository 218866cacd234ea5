"""The words of the command line. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from avalanche_vlm.catalogue import ADVISED, COMPARED, catalogue
from avalanche_vlm.commands import flags, living_flags, words
from avalanche_vlm.commands.use_flags import add_use

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import Part

_SEED = "of the training, and of the data unless --data-seed is given"


def parse(argv: Sequence[str] | None = None) -> tuple[str, Part]:
    """The command and its request.

    :param argv: arguments without the program's name; the process's by default.
    :return: name of the command, and what it is asked.
    :raises InputError: for an argument of the right form that cannot be meant.
    :raises SystemExit: for an argument of the wrong form, with usage on standard error and exit code 2.
    """
    parser, commands = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")  # with that command's usage
    from avalanche_vlm.commands.asking import REQUESTS

    return options.command, REQUESTS[options.command](options)


class _Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names: ``compare --seed 3`` would pass for ``--seeds 3``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands."""
    parser = _Parser(prog="avalanche-vlm", description="Continual learning of vision-language models, measured.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train one recipe on a stream", description="Train one recipe on a stream.")
    shipped = ", ".join(line.name for line in catalogue())
    run.add_argument("--recipe", default="fine-tune", help=f"{shipped} (default: fine-tune)")
    run.add_argument("--seed", type=words.seed_number, default=0, help=_SEED)
    flags.add_kept_tests(run)
    run.add_argument("--no-save", action="store_true", help="do not save the trained model in DIR/model")
    compare = commands.add_parser(
        "compare",
        help="train several recipes on the same stream, side by side",
        description="Train several recipes on the same stream; started again, it keeps what is finished.",
    )
    compare.add_argument("--recipes", type=words.names, help=f"separated by commas (default: {','.join(COMPARED)})")
    compare.add_argument(
        "--seeds", type=words.seed_numbers, default=[0], help=f"{_SEED}; several are separated by commas (default: 0)"
    )
    compare.add_argument("--save-models", action="store_true", help="save the trained models, each in its run's folder")
    for command in (run, compare):
        command.add_argument("--embed-base", action="store_true", help="save the pretrained weights along with a model")
    diagnose = commands.add_parser(
        "diagnose",
        help="repeat a run with probes: what was lost, where, and why",
        description="Repeat the run that DIR holds with probes, put back one thing at a time, and write "
        "DIR/diagnosis.json.",
    )
    diagnose.add_argument("out", metavar="DIR", help="a folder with a finished run")
    flags.add_manners(diagnose)
    flags.add_checkpoints(diagnose)
    advise = commands.add_parser(
        "advise",
        help="try recipes in short pilots, recommend one, and plan its introduction",
        description="Try recipes on shares of the stream's data, recommend one within constraints, and say in which "
        "order to introduce what; started again, it keeps the pilots that are there.",
    )
    _add_advice(advise)
    for command in (run, compare, advise):
        flags.add_training(command)
    living_flags.add_living(commands)
    report = commands.add_parser(
        "report",
        help="one page of what a folder holds, as HTML, Markdown and JSON",
        description="Write DIR/report.html, report.md and report.json: results, diagnosis and advice that DIR holds.",
    )
    report.add_argument("out", metavar="DIR", help="a folder of run, compare, diagnose or advise")
    add_use(commands)
    listing = commands.add_parser(
        "list",
        help="recipes, benchmarks, models and formats that there are, or all about one of them",
        description="What there is, each with a line; with NAME, all about one of them.",
    )
    listing.add_argument("what", choices=("recipes", "benchmarks", "models", "formats"))
    listing.add_argument("name", nargs="?", metavar="NAME", help="the one to describe")
    listing.add_argument("--json", action="store_true", help="as JSON")
    return parser, commands.choices


def _add_advice(parser: argparse.ArgumentParser) -> None:
    tried = ",".join(ADVISED)
    parser.add_argument("--recipes", type=words.names, default=ADVISED, help=f"separated by commas (default: {tried})")
    parser.add_argument("--seed", type=words.seed_number, default=0, help=_SEED)
    parser.add_argument(
        "--minutes", type=words.rate, default=4.5, help="all pilots together take no longer (default: 4.5)"
    )
    limits = parser.add_argument_group("constraints")
    limits.add_argument(
        "--max-bytes", type=words.count, metavar="N", help="stored between tasks, RAM and disk together"
    )
    limits.add_argument("--no-raw-data", action="store_true", help="no pictures or captions may be kept")
    limits.add_argument("--no-task-id", action="store_true", help="no prediction may ask for the sample's task")
    limits.add_argument("--max-train-seconds", type=words.rate, metavar="S", help="of training on all of the data")
    limits.add_argument(
        "--keep-zero-shot",
        type=words.rate,
        default=2.0,
        metavar="POINTS",
        help="that held-out sets may lose (default: 2)",
    )
