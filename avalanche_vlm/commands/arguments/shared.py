"""Options that several commands share, in the groups that their help shows."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from avalanche_vlm.benchmarks.label_space import TrainClasses, TrainTemplates, Visible
from avalanche_vlm.benchmarks.registry import KINDS, benchmark_names
from avalanche_vlm.commands.arguments import values
from avalanche_vlm.models.precision import PRECISIONS
from avalanche_vlm.training.settings import CHECKPOINT_MINUTES


def add_training(parser: argparse.ArgumentParser) -> None:
    """What all commands that train on a stream take: folder, checkpoints, stream, model and training.

    :param parser: parser of the command, which gets the options.
    """
    parser.add_argument("--out", required=True, metavar="DIR", help="where results go")
    add_manners(parser)
    add_checkpoints(parser)
    add_stream(parser).add_argument(
        "--full",
        action="store_true",
        help="the benchmark in its own sizes (default: those of a first look, which the first line says)",
    )
    add_own_data(parser)
    _add_model(parser)
    add_settings(parser).add_argument(
        "--published",
        action="store_true",
        help="settings that the recipe was published with on the benchmark; what else is given here goes before them, "
        "and recipes that train nothing need none",
    )


def add_manners(parser: argparse.ArgumentParser) -> None:
    """How a command goes about its work, which changes none of its figures.

    :param parser: parser of the command, which gets the options.
    """
    parser.add_argument("--quiet", action="store_true", help="no progress bars and remarks")
    values.add_number(parser, "threads")


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """How often what a command trains is written to disk.

    :param parser: parser of the command, which gets the options.
    """
    values.add_number(parser, "checkpoint_minutes", default=CHECKPOINT_MINUTES)


BENCHMARK = "picturebook"
"""The stream that a command takes where neither a benchmark nor data are named."""


def add_stream(parser: argparse.ArgumentParser, benchmark: str = BENCHMARK, seed: str = "each --seed") -> Any:
    """Which stream of tasks.

    :param parser: parser of the command, which gets the options.
    :param benchmark: words for the stream that the command takes if none is named.
    :param seed: words for the seed that the data get if none is given.
    :return: argparse's group of these options.
    """
    data = parser.add_argument_group("stream")
    data.add_argument("--benchmark", choices=benchmark_names(), help=f"(default: {benchmark})")
    data.add_argument("--root", metavar="DIR", help="folder that holds the data sets of a published benchmark")
    data.add_argument("--data", metavar="PATH", help="your own folder of class folders, or table (list formats)")
    data.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="whether an image or row that cannot be read stops the run or is left out; one that no check has found is "
        "then passed over where the run meets it, and the result names it",
    )
    data.add_argument("--label-space", choices=get_args(Visible), help="which classes compete")
    data.add_argument(
        "--order", type=values.names, metavar="A,B,C", help="names of the tasks, in the order of the stream"
    )
    data.add_argument("--template", action="append", metavar="TEXT", help="prompt of --data with {}, repeatable")
    bare = "where the stream brings none: --data and published benchmarks"
    data.add_argument("--reference", metavar="TABLE", help=f"image and caption pairs to distil on, {bare}")
    data.add_argument("--generator", metavar="MODEL", help=f"text-to-image model that draws pairs, {bare}")
    values.add_number(data, "data_seed", unset=seed)
    for size in ("n_train", "n_test", "n_held_out", "n_reference", "shots"):
        values.add_number(data, size)
    data.add_argument(
        "--held-out",
        action="append",
        default=[],
        metavar="DATA",
        help="what is measured and never trained, repeatable: a folder, a table, or a published data set by its name, "
        "such as coco-karpathy or imagenet",
    )
    data.add_argument("--held-out-root", metavar="DIR", help="folder of the published ones of these (default: --root)")
    data.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of the benchmark, repeatable (avalanche-vlm list benchmarks BENCHMARK names them)",
    )
    return data


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """How data of the user's own are read.

    :param parser: parser of the command, which gets the options.
    """
    own = parser.add_argument_group("your own data (--data)")
    own.add_argument("--class-names", metavar="FILE", help="names of classes: a line each in order, or label and name")
    own.add_argument("--kind", choices=KINDS, help="of a table that has labels and captions")
    own.add_argument("--image-root", metavar="DIR", help="what image paths of a table are relative to")
    values.add_number(own, "split_classes")
    own.add_argument(
        "--check",
        choices=("none", "fast", "full"),
        help="of images before training (default: full, and fast of a published benchmark)",
    )
    values.add_number(own, "check_workers")
    own.add_argument(
        "--class-order",
        metavar="ORDER",
        help="of --split-classes: sorted, or a file (default: drawn); of a published benchmark: one that "
        "list benchmarks BENCHMARK names",
    )
    for column in ("image", "label", "caption", "task", "split"):
        own.add_argument(f"--{column}-column", metavar="NAME", help=f"column of a table (default: {column})")
    own.add_argument("--domain-column", metavar="NAME", help="column whose values are tasks with the same classes")
    own.add_argument("--time-column", metavar="NAME", help="column of years, other numbers or dates: steps in time")
    values.add_number(own, "steps")


def add_kept_tests(parser: argparse.ArgumentParser, unset: str = "") -> None:
    """Which test samples are kept with a model.

    :param parser: parser of the command, which gets the options.
    :param unset: words for what holds if nothing is said, in place of the declared ones.
    """
    values.add_number(parser, "keep_tests", unset=unset)
    parser.add_argument("--no-raw-data", action="store_true", help="keep no pictures or captions of test samples")


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="tiny", help="tiny, or any open_clip name (default: tiny)")
    model.add_argument("--pretrained", metavar="TAG", help="open_clip's tag, or a checkpoint file")
    model.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the weights (default: fp32)")
    values.add_number(model, "image_size", metavar="PIXELS")
    add_trust(model)
    model.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def add_trust(parser: Any) -> None:
    """Whether code that comes with a model may run.

    :param parser: parser of the command, or a group of it, which gets the option.
    """
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="let Python files run that come with the model's tokenizer or text tower (docs/security.md)",
    )


def add_settings(
    parser: argparse.ArgumentParser, says: str = "defaults depend on benchmark and recipe", unset: str = ""
) -> Any:
    """How every task is trained.

    :param parser: parser of the command, which gets the options.
    :param says: words for what is trained with where nothing is said.
    :param unset: words for the numbers that hold if none is given, in place of the declared ones.
    :return: argparse's group of these options.
    """
    train = parser.add_argument_group(f"training ({says})")
    for number in ("lr", "epochs", "iterations", "batch_size", "warmup", "weight_decay", "label_smoothing"):
        values.add_number(train, number, unset=unset)
    values.add_number(train, "negatives", unset=unset)
    values.add_number(train, "max_grad_norm", unset=unset, type=values.OrNone("max_grad_norm"), metavar="NORM")
    train.add_argument(
        "--rate",
        action="append",
        default=[],
        type=values.rate,
        metavar="TASK=LR",
        help="peak learning rate of one task in the place of --lr, repeatable",
    )
    train.add_argument("--online", action="store_true", help="one pass: every training sample is met once")
    train.add_argument(
        "--train-classes",
        choices=get_args(TrainClasses),
        help="classes that compete in training: of the batch's own tasks, or all met so far (default: the former, "
        "unless the recipe's method needs the latter)",
    )
    train.add_argument(
        "--train-templates",
        choices=get_args(TrainTemplates),
        help="prompts that stand for a class in training: of all templates, averaged, or of the first (default: all)",
    )
    train.add_argument("--amp", choices=("bf16", "fp16"), help="autocast; fp16 with a scaled loss (default: none)")
    values.add_number(train, "accumulate", unset=unset)
    train.add_argument(
        "--grad-checkpointing", action="store_true", default=None, help="keep no activations: less memory, more time"
    )
    train.add_argument(
        "--tf32", action="store_true", default=None, help="round factors of matrix products on CUDA (default: not)"
    )
    train.add_argument(
        "--compile", action="store_true", default=None, help="torch compiles the towers' blocks (default: not)"
    )
    values.add_number(train, "num_workers", unset=unset, default=0)
    train.add_argument(
        "--set", action="append", default=[], metavar="[RECIPE.]OPTION=VALUE", help="a recipe's option, repeatable"
    )
    return train
