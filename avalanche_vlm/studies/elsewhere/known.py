"""Which engines there are, and what each needs. Nothing heavy is imported here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from avalanche_vlm.errors import InputError


@dataclass(frozen=True)
class KnownEngine:
    """An engine by name.

    :param module: the library that it works by, which the extra of its name brings; empty for none.
    :param programs: what must be on the path of the machine that asks for the works.
    """

    module: str = ""
    programs: tuple[str, ...] = ()


ENGINES: Mapping[str, KnownEngine] = {
    "local": KnownEngine(),
    "ray": KnownEngine("ray"),
    "slurm": KnownEngine("submitit", ("sbatch", "srun", "sacct", "scancel")),
}
"""What ``--engine`` takes."""


def refuse_no_engine(name: str) -> None:
    """Refuse an engine that cannot work from here.

    :param name: name of the engine.
    :raises InputError: naming what is missing, and the extra that brings it.
    """
    engine = ENGINES[name]
    if engine.module and find_spec(engine.module) is None:
        raise InputError(f"--engine {name} needs {engine.module}: pip install 'avalanche-vlm[{name}]'")
    for program in engine.programs:
        if shutil.which(program) is None:
            raise InputError(f"--engine {name} needs {program}, which is not on this machine's path")
