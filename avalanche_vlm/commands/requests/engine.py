"""Where the runs of a comparison and the pilots of an advice are done: on this machine, or on a cluster."""

from __future__ import annotations

import argparse
import re
from typing import Annotated, Literal

from avalanche_vlm.commands.requests.parts import Part, within
from avalanche_vlm.errors import InputError

_OF = {"address": "ray", "partition": "slurm", "job_minutes": "slurm", "job_memory": "slurm", "sbatch": "slurm"}
"""Options that belong to one engine."""
_OURS = {
    **dict.fromkeys(("array", "error", "open-mode", "output", "requeue", "signal", "wrap"), "is said by this command"),
    "mem": "is --job-memory",
    "partition": "is --partition",
    "time": "is --job-minutes",
}
"""Options of ``sbatch`` that the command says itself."""


class EngineRequest(Part):
    """Where works are done, and what is asked for, for each of them. It decides no figure.

    :param name: ``local`` for processes on this machine, ``ray`` or ``slurm`` for a cluster.
    :param address: where the Ray cluster is; None for one on this machine.
    :param gpus: GPUs of each; None for 1 on CUDA, and else none.
    :param partition: Slurm's partition; None for the cluster's default.
    :param job_minutes: minutes that a job may take at a time.
    :param job_memory: GiB of memory; None for the cluster's default.
    :param sbatch: further options of ``sbatch``, an empty value for one that has none.
    """

    name: Literal["local", "ray", "slurm"] = "local"
    address: str | None = None
    gpus: Annotated[float, within("gpus")] | None = None
    partition: str | None = None
    job_minutes: Annotated[int, within("job_minutes")] = 240
    job_memory: Annotated[float, within("job_memory")] | None = None
    sbatch: tuple[tuple[str, str], ...] = ()

    @property
    def elsewhere(self) -> bool:
        """Whether works are done by the processes of a cluster."""
        return self.name != "local"

    def gpus_on(self, device: str) -> float:
        """GPUs of each work.

        :param device: where it trains.
        """
        if self.gpus is not None:
            return self.gpus
        return float(device.startswith("cuda"))


def engine_request(options: argparse.Namespace) -> EngineRequest:
    """Where works are done.

    :param options: arguments as argparse has parsed them.
    :raises InputError: for an option that does not apply to the engine, or that cannot be meant.
    """
    engine, given = options.engine, {name: getattr(options, name) for name in _OF if getattr(options, name)}
    for name in given:
        if _OF[name] != engine:
            raise InputError(f"--{name.replace('_', '-')} does not apply to --engine {engine}, only to {_OF[name]}")
    if engine == "local":
        if options.gpus is not None:
            raise InputError("--gpus does not apply to --engine local: --device says where runs train")
        return EngineRequest()
    if re.fullmatch(r"cuda:\d+", options.device):
        raise InputError(f"--device {options.device} does not apply to --engine {engine}, which says itself which GPU")
    if options.gpus is not None and bool(options.gpus) != (options.device != "cpu") and options.device != "auto":
        raise InputError(f"--gpus {options.gpus:g} and --device {options.device} cannot both be meant")
    if engine == "slurm" and options.gpus not in (None, 0, 1):
        raise InputError(f"--gpus {options.gpus:g}: Slurm gives a run whole GPUs, and several share one only on ray")
    further = tuple(map(_sbatch_option, options.sbatch))
    return EngineRequest(name=engine, gpus=options.gpus, **{**given, "sbatch": further})


def device_on(engine: EngineRequest, device: str) -> str:
    """Where works train. What ``auto`` stands for on the machines of a cluster this one cannot know: the GPUs that are
    asked for say it.

    :param engine: where works are done.
    :param device: the word that was written.
    """
    if engine.elsewhere and device == "auto":
        return "cuda" if engine.gpus else "cpu"
    return device


def _sbatch_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.removeprefix("--")
    if not re.fullmatch(r"[a-z][a-z-]*", name) or (equals and not value) or not value.isprintable():
        raise InputError(f"--sbatch {text!r}: write NAME=VALUE, or NAME for an option that has no value")
    if name in _OURS:
        raise InputError(f"--sbatch {name} {_OURS[name]}")
    return name, value
