"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib import import_module

from avalanche_vlm.commands.inputs import BENCHMARKS
from avalanche_vlm.errors import InputError
from avalanche_vlm.presets import ADVISED, COMPARED

RECIPES = (
    "fine-tune",
    "replay",
    "icarl",
    "tic-cumulative",
    "text-replay",
    "latent-replay",
    "prototype-replay",
    "gift",
    "lwf",
    "lwf-vr",
    "zscl",
    "snd",
    "gnsp",
    "mod-x",
    "dkr",
    "ctp",
    "ewc-clip",
    "nusa",
    "keeplora",
    "c-clip",
    "lora",
    "adapter-per-task",
    "moe-adapters",
    "coop",
    "maple",
    "s-prompts",
    "diki",
    "l2p",
    "dualprompt",
    "coda-prompt",
    "zero-shot",
    "rail-primal",
    "rail-dual",
    "ranpac",
    "simplecil",
    "lada",
    "proof",
    "wise-ft",
    "magmax",
    "ties",
    "rapf",
)
"""Names for the help text, which must not wait for the recipes themselves to be imported."""
COMMANDS = {
    "run": ("run", "run"),
    "compare": ("run", "compare"),
    "diagnose": ("diagnose", "diagnose"),
    "advise": ("advise", "advise"),
    "report": ("report", "report"),
}
"""Module and function of every command, imported when it runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    :param argv: arguments, the process's by default.
    :return: exit code: 0, 2 for unusable input, 130 when interrupted.
    """
    options = parse(argv)
    try:
        if options.threads is not None:
            import torch

            torch.set_num_threads(options.threads)
        module, function = COMMANDS[options.command]
        return getattr(import_module(f"avalanche_vlm.commands.{module}"), function)(options)
    except InputError as error:
        print(f"avalanche-vlm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"avalanche-vlm: interrupted; what is finished is kept in {options.out}", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command, with their defaults."""
    parser, commands = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")  # with that command's usage
    return options


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands."""
    parser = argparse.ArgumentParser(
        prog="avalanche-vlm", description="Continual learning of vision-language models, measured."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train one recipe on a stream", description="Train one recipe on a stream.")
    run.add_argument("--recipe", default="fine-tune", help=f"{', '.join(RECIPES)} (default: fine-tune)")
    run.add_argument("--seed", type=_count, default=0)
    compare = commands.add_parser(
        "compare",
        help="train several recipes on the same stream, side by side",
        description="Train several recipes on the same stream; started again, it keeps what is finished.",
    )
    compare.add_argument("--recipes", help=f"separated by commas (default: {','.join(COMPARED)})")
    compare.add_argument("--seeds", type=_counts, default=[0], help="separated by commas (default: 0)")
    diagnose = commands.add_parser(
        "diagnose",
        help="repeat a run with probes: what was lost, where, and why",
        description="Repeat the run that DIR holds with probes, put back one thing at a time, and write "
        "DIR/diagnosis.json.",
    )
    diagnose.add_argument("out", metavar="DIR", help="a folder with a finished run")
    diagnose.add_argument("--quiet", action="store_true", help="no progress bar")
    diagnose.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of torch")
    advise = commands.add_parser(
        "advise",
        help="try recipes in short pilots, recommend one, and plan its introduction",
        description="Try recipes on shares of the stream's data, recommend one within constraints, and say in which "
        "order to introduce what; started again, it keeps the pilots that are there.",
    )
    _advise(advise)
    for command in (run, compare, advise):
        _common(command)
    report = commands.add_parser(
        "report",
        help="one page of what a folder holds, as HTML, Markdown and JSON",
        description="Write DIR/report.html, report.md and report.json: results, diagnosis and advice that DIR holds.",
    )
    report.add_argument("out", metavar="DIR", help="a folder of run, compare, diagnose or advise")
    report.set_defaults(threads=None)
    return parser, commands.choices


def _advise(parser: argparse.ArgumentParser) -> None:
    tried = ",".join(ADVISED)
    parser.add_argument("--recipes", default=tried, help=f"separated by commas (default: {tried})")
    parser.add_argument("--seed", type=_count, default=0)
    parser.add_argument("--minutes", type=_rate, default=4.5, help="all pilots together take no longer (default: 4.5)")
    limits = parser.add_argument_group("constraints")
    limits.add_argument("--max-bytes", type=_count, metavar="N", help="stored between tasks, RAM and disk together")
    limits.add_argument("--no-raw-data", action="store_true", help="no pictures or captions may be kept")
    limits.add_argument("--no-task-id", action="store_true", help="no prediction may ask for the sample's task")
    limits.add_argument("--max-train-seconds", type=_rate, metavar="S", help="of training on all of the data")
    limits.add_argument(
        "--keep-zero-shot", type=_rate, default=2.0, metavar="POINTS", help="that held-out sets may lose (default: 2)"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="where results go")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and remarks")

    data = parser.add_argument_group("stream")
    data.add_argument("--benchmark", choices=BENCHMARKS, default="picturebook", help="(default: picturebook)")
    data.add_argument("--data", metavar="PATH", help="your own folder task/class/image, or CSV, TSV or JSONL table")
    data.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="unreadable rows of --data")
    data.add_argument("--label-space", choices=("task", "seen", "union"), help="which classes compete")
    data.add_argument("--order", metavar="A,B,C", help="names of the tasks, in the order of the stream")
    data.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for the class, repeatable")
    data.add_argument("--reference", metavar="TABLE", help="image and caption pairs to distil on, for --data")
    data.add_argument("--generator", metavar="MODEL", help="text-to-image model that draws synthetic pairs, for --data")
    data.add_argument("--n-train", type=_positive, metavar="N", help="training pictures per task of the picturebook")
    data.add_argument("--n-test", type=_positive, metavar="N", help="test pictures per task of the picturebook")
    data.add_argument("--n-held-out", type=_positive, metavar="N", help="held-out captions of the picturebook")
    data.add_argument("--n-reference", type=_positive, metavar="N", help="reference pairs of the picturebook")

    model = parser.add_argument_group("model")
    model.add_argument("--model", default="tiny", help="tiny, or any open_clip name (default: tiny)")
    model.add_argument("--pretrained", metavar="TAG", help="open_clip's tag, or a checkpoint file")
    model.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    model.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of torch")

    train = parser.add_argument_group("training (defaults depend on benchmark and recipe)")
    train.add_argument("--lr", type=_rate)
    train.add_argument("--epochs", type=_positive)
    train.add_argument("--batch-size", type=_positive)
    train.add_argument("--warmup", type=_count, metavar="STEPS")
    train.add_argument("--weight-decay", type=_rate)
    train.add_argument("--amp", choices=("bf16",))
    train.add_argument("--workers", type=_count, default=0, help="processes that load data (default: 0)")
    train.add_argument(
        "--set", action="append", default=[], metavar="[RECIPE.]OPTION=VALUE", help="a recipe's option, repeatable"
    )


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _counts(text: str) -> list[int]:
    # A seed that is named twice is one experiment: counted twice it would pass for a spread of zero.
    return list(dict.fromkeys(_count(part) for part in text.split(",")))


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
