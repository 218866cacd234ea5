"""The words of the command line. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from avalanche_vlm.benchmarks.label_space import TrainClasses, Visible
from avalanche_vlm.benchmarks.registry import KINDS, benchmark_names
from avalanche_vlm.catalogue import ADVISED, COMPARED, catalogue
from avalanche_vlm.models.precision import PRECISIONS

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import ListRequest, Request

_SEED = "of the training, and of the data unless --data-seed is given"


def parse(argv: Sequence[str] | None = None) -> tuple[str, Request | ListRequest]:
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
    run.add_argument("--seed", type=_seed, default=0, help=_SEED)
    compare = commands.add_parser(
        "compare",
        help="train several recipes on the same stream, side by side",
        description="Train several recipes on the same stream; started again, it keeps what is finished.",
    )
    compare.add_argument("--recipes", type=_names, help=f"separated by commas (default: {','.join(COMPARED)})")
    compare.add_argument(
        "--seeds", type=_seeds, default=[0], help=f"{_SEED}; several are separated by commas (default: 0)"
    )
    diagnose = commands.add_parser(
        "diagnose",
        help="repeat a run with probes: what was lost, where, and why",
        description="Repeat the run that DIR holds with probes, put back one thing at a time, and write "
        "DIR/diagnosis.json.",
    )
    diagnose.add_argument("out", metavar="DIR", help="a folder with a finished run")
    diagnose.add_argument("--quiet", action="store_true", help="no progress bar")
    diagnose.add_argument("--threads", type=_threads, metavar="N", help="CPU threads of torch")
    advise = commands.add_parser(
        "advise",
        help="try recipes in short pilots, recommend one, and plan its introduction",
        description="Try recipes on shares of the stream's data, recommend one within constraints, and say in which "
        "order to introduce what; started again, it keeps the pilots that are there.",
    )
    _add_advice(advise)
    for command in (run, compare, advise):
        _add_common(command)
    report = commands.add_parser(
        "report",
        help="one page of what a folder holds, as HTML, Markdown and JSON",
        description="Write DIR/report.html, report.md and report.json: results, diagnosis and advice that DIR holds.",
    )
    report.add_argument("out", metavar="DIR", help="a folder of run, compare, diagnose or advise")
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
    parser.add_argument("--recipes", type=_names, default=ADVISED, help=f"separated by commas (default: {tried})")
    parser.add_argument("--seed", type=_seed, default=0, help=_SEED)
    parser.add_argument("--minutes", type=_rate, default=4.5, help="all pilots together take no longer (default: 4.5)")
    limits = parser.add_argument_group("constraints")
    limits.add_argument("--max-bytes", type=_count, metavar="N", help="stored between tasks, RAM and disk together")
    limits.add_argument("--no-raw-data", action="store_true", help="no pictures or captions may be kept")
    limits.add_argument("--no-task-id", action="store_true", help="no prediction may ask for the sample's task")
    limits.add_argument("--max-train-seconds", type=_rate, metavar="S", help="of training on all of the data")
    limits.add_argument(
        "--keep-zero-shot", type=_rate, default=2.0, metavar="POINTS", help="that held-out sets may lose (default: 2)"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="where results go")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and remarks")

    data = parser.add_argument_group("stream")
    data.add_argument("--benchmark", choices=benchmark_names(), help="(default: picturebook)")
    data.add_argument("--data", metavar="PATH", help="your own folder of class folders, or table (list formats)")
    data.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="unreadable rows of --data")
    data.add_argument("--label-space", choices=get_args(Visible), help="which classes compete")
    data.add_argument("--order", type=_names, metavar="A,B,C", help="names of the tasks, in the order of the stream")
    data.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for the class, repeatable")
    data.add_argument("--reference", metavar="TABLE", help="image and caption pairs to distil on, for --data")
    data.add_argument("--generator", metavar="MODEL", help="text-to-image model that draws synthetic pairs, for --data")
    data.add_argument(
        "--data-seed", type=_seed, metavar="N", help="of the pictures, or of the split of --data (default: each --seed)"
    )
    data.add_argument("--n-train", type=_positive, metavar="N", help="training pictures per task of the picturebook")
    data.add_argument("--n-test", type=_positive, metavar="N", help="test pictures per task of the picturebook")
    data.add_argument("--n-held-out", type=_positive, metavar="N", help="held-out captions of the picturebook")
    data.add_argument("--n-reference", type=_positive, metavar="N", help="reference pairs of the picturebook")
    data.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of the benchmark, repeatable (avalanche-vlm list benchmarks BENCHMARK names them)",
    )

    own = parser.add_argument_group("your own data (--data)")
    own.add_argument("--class-names", metavar="FILE", help="names of classes: a line each in order, or label and name")
    own.add_argument("--kind", choices=KINDS, help="of a table that has labels and captions")
    own.add_argument("--image-root", metavar="DIR", help="what image paths of a table are relative to")
    own.add_argument("--split-classes", type=_positive, metavar="N", help="make N tasks of the classes of one data set")
    own.add_argument("--class-order", metavar="ORDER", help="of --split-classes: sorted, or a file (default: drawn)")
    for column in ("image", "label", "caption", "task", "split"):
        own.add_argument(f"--{column}-column", metavar="NAME", help=f"column of a table (default: {column})")

    model = parser.add_argument_group("model")
    model.add_argument("--model", default="tiny", help="tiny, or any open_clip name (default: tiny)")
    model.add_argument("--pretrained", metavar="TAG", help="open_clip's tag, or a checkpoint file")
    model.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the weights (default: fp32)")
    model.add_argument("--image-size", type=_positive, metavar="PIXELS", help="side of its input (default: its own)")
    model.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    model.add_argument("--threads", type=_threads, metavar="N", help="CPU threads of torch")

    train = parser.add_argument_group("training (defaults depend on benchmark and recipe)")
    train.add_argument("--lr", type=_rate)
    train.add_argument("--epochs", type=_positive)
    train.add_argument("--batch-size", type=_positive)
    train.add_argument("--warmup", type=_count, metavar="STEPS")
    train.add_argument("--weight-decay", type=_rate)
    train.add_argument("--label-smoothing", type=_rate, metavar="SHARE", help="of class targets (default: 0)")
    train.add_argument(
        "--train-classes",
        choices=get_args(TrainClasses),
        help="classes that compete in training: of the batch's own tasks, or all met so far (default: the former, "
        "unless the recipe's method needs the latter)",
    )
    train.add_argument("--amp", choices=("bf16",))
    train.add_argument("--workers", type=_workers, default=0, help="processes that load data (default: 0)")
    train.add_argument(
        "--set", action="append", default=[], metavar="[RECIPE.]OPTION=VALUE", help="a recipe's option, repeatable"
    )


def _names(text: str) -> tuple[str, ...]:
    """Names separated by commas, without the blanks around them.

    >>> _names("zscl, lora")
    ('zscl', 'lora')
    """
    return tuple(name.strip() for name in text.split(","))


def _whole(text: str, least: int, most: int = 2**63 - 1, why: str = "no computer counts so far") -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is above {most}: {why}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 0)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**64 - 1, "torch's random generators take no larger seed")


def _seeds(text: str) -> tuple[int, ...]:
    # A seed that is named twice is one experiment: counted twice it would pass for a spread of zero.
    return tuple(dict.fromkeys(_seed(part) for part in text.split(",")))


def _threads(text: str) -> int:
    return _whole(text, 1, 4096, "no machine runs more at once")


def _workers(text: str) -> int:
    return _whole(text, 0, 1024, "no machine runs more at once")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of 0 or more")
    return value
