"""Arguments of the commands that train on a stream: ``run``, ``compare``, ``diagnose`` and ``advise``."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.catalogue import ADVISED, COMPARED, catalogue
from avalanche_vlm.commands.arguments import shared, values
from avalanche_vlm.report.tracking.known import TRACKERS
from avalanche_vlm.studies.elsewhere.known import ENGINES
from avalanche_vlm.training.settings import EvalTasks


def add_training_commands(commands: Any) -> None:
    """The parsers of ``run``, ``compare``, ``diagnose`` and ``advise``.

    :param commands: what the program's parser keeps its commands in, which gets them.
    """
    run = commands.add_parser("run", help="train one recipe on a stream", description="Train one recipe on a stream.")
    shipped = ", ".join(line.name for line in catalogue())
    run.add_argument("--recipe", default="fine-tune", help=f"{shipped} (default: fine-tune)")
    values.add_number(run, "seed", default=0)
    shared.add_kept_tests(run)
    run.add_argument("--no-save", action="store_true", help="do not save the trained model in DIR/model")
    run.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each process keeps a part of the towers, which no device has room for (default: not)",
    )
    compare = commands.add_parser(
        "compare",
        help="train several recipes on the same stream, side by side",
        description="Train several recipes on the same stream; started again, it keeps what is finished.",
    )
    compare.add_argument("--recipes", type=values.names, help=f"separated by commas (default: {','.join(COMPARED)})")
    more = f"{NUMBERS['seed'].says}; several are separated by commas"
    values.add_number(compare, "seed", option="--seeds", says=more, several=True, default=[0])
    compare.add_argument("--save-models", action="store_true", help="save the trained models, each in its run's folder")
    shared.add_kept_tests(compare)
    _add_jobs(compare, "runs")
    for command in (run, compare):
        command.add_argument(
            "--eval",
            choices=get_args(EvalTasks),
            help="tasks that are evaluated after each, those seen so far, or none but after the last; before the first "
            "and after the last all are (default: all)",
        )
        values.add_number(command, "eval_every")
        command.add_argument(
            "--log",
            type=values.names,
            default=(),
            metavar="TRACKER,...",
            help=f"{', '.join(TRACKERS)}, separated by commas: losses, scores and pictures in DIR/logs (default: none)",
        )
        values.add_number(command, "keep_examples")
        command.add_argument("--embed-base", action="store_true", help="save the pretrained weights along with a model")
    diagnose = commands.add_parser(
        "diagnose",
        help="repeat a run with probes: what was lost, where, and why",
        description="Repeat the run that DIR holds with probes, put back one thing at a time, and write "
        "DIR/diagnosis.json.",
    )
    diagnose.add_argument("out", metavar="DIR", help="a folder with a finished run")
    shared.add_manners(diagnose)
    shared.add_checkpoints(diagnose)
    shared.add_trust(diagnose)
    advise = commands.add_parser(
        "advise",
        help="try recipes in short pilots, recommend one, and plan its introduction",
        description="Try recipes on shares of the stream's data, recommend one within constraints, and say in which "
        "order to introduce what; started again, it keeps the pilots that are there.",
    )
    _add_advice(advise)
    for command in (run, compare, advise):
        shared.add_training(command)


def _add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    values.add_number(
        parser,
        "jobs",
        says=f"{what} at once, in processes among which --threads are divided",
        unset=f"one per processor, as far as there are {what} and memory; 1 on CUDA. On a cluster the most at once, by "
        "default as many as it has room for",
    )
    group = parser.add_argument_group("engine", f"where {what} are done, which changes none of their figures")
    group.add_argument(
        "--engine",
        choices=tuple(ENGINES),
        default="local",
        help="processes on this machine, or a cluster of Ray's or Slurm's (docs/scaling.md), on which --threads are "
        "those of each (default: local)",
    )
    group.add_argument("--address", help="of a running Ray cluster: auto, HOST:PORT (default: one on this machine)")
    values.add_number(group, "gpus")
    group.add_argument("--partition", metavar="NAME", help="of Slurm (default: the cluster's)")
    values.add_number(group, "job_minutes")
    values.add_number(group, "job_memory", metavar="GIB")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="another option of sbatch, such as account=LAB, repeatable",
    )


def _add_advice(parser: argparse.ArgumentParser) -> None:
    tried = ",".join(ADVISED)
    parser.add_argument("--recipes", type=values.names, default=ADVISED, help=f"separated by commas (default: {tried})")
    values.add_number(parser, "seed", default=0)
    values.add_number(parser, "minutes", default=4.5)
    _add_jobs(parser, "pilots")
    limits = parser.add_argument_group("constraints")
    values.add_number(limits, "max_bytes")
    limits.add_argument("--no-raw-data", action="store_true", help="no pictures or captions may be kept")
    limits.add_argument("--no-task-id", action="store_true", help="no prediction may ask for the sample's task")
    values.add_number(limits, "max_train_seconds", metavar="S")
    values.add_number(limits, "keep_zero_shot", default=2.0, metavar="POINTS")
