"""Numbers that users give: of each one declaration, which the command line, requests, settings and pages read.

Where a stated bound does not protect a machine, memory does: a number that stands for parts of a known size is refused
where they come to more than there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import brief, human_bytes

_COUNTED = 2**63 - 1
_LARGEST = 1e18
"""Within the range of 64-bit counts and of float32, in which an optimizer steps."""
_AT_ONCE = "no machine runs more at once"
_NO_PORT = "there are no others"
_WORKER = 10 * 2**20
"""Memory that a process which loads data has for itself (measured: 10.7 MiB)."""
_THREAD = 64 * 2**10
"""Memory that a thread of torch has for itself (measured with 4,096 of them: 61 KiB)."""
_DRAWN = 75 * 2**10
"""Memory that a picture takes while it is drawn, at its peak (measured over all styles: 48 to 72 KiB)."""
_PICTURES = 100_000


@dataclass(frozen=True)
class Number:
    """What a number may be, and what it means.

    :param name: what it is called in Python and in stored requests.
    :param says: what it decides, in a phrase.
    :param unset: what holds where it is not given, in words; empty where each command says that itself.
    :param whole: whether it has no fraction.
    :param least: the smallest that is taken.
    :param most: the largest that is taken.
    :param open: the ends of this range that are not in it: ``"("``, ``")"``, both or none.
    :param why: why no larger one is taken, in a clause.
    :param none: a word that stands for no number at all; empty if there is none.
    :param each: bytes of memory that one of what is counted takes at least; 0 where nobody knows.
    :param flag: the option of the command line; by default made of the name.
    """

    name: str
    says: str
    unset: str = ""
    whole: bool = True
    least: float = 0
    most: float = _COUNTED
    open: str = ""
    why: str = ""
    none: str = ""
    each: int = 0
    flag: str = ""

    @property
    def option(self) -> str:
        """The option of the command line."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def accepts(self) -> str:
        """What it may be, in words.

        >>> NUMBERS["lr"].accepts, NUMBERS["threads"].accepts, NUMBERS["label_smoothing"].accepts
        ('a finite number above 0', 'a whole number from 1 to 1,024', 'a finite number of 0 or more and below 1')
        """
        kind = "a whole number" if self.whole else "a finite number"
        least, most = f"{self.least:,.15g}", f"{self.most:,.15g}"
        begin = f"above {least}" if "(" in self.open else f"of {least} or more"
        if self.most >= _LARGEST:
            said = f"{kind} {begin}"
        elif not self.open:
            said = f"{kind} from {least} to {most}"
        else:
            said = f"{kind} {begin} and {'below' if ')' in self.open else 'at most'} {most}"
        return f"{said}, or {self.none}" if self.none else said

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in a clause that begins with it; None if nothing is.

        :param value: what was given, of any type.

        >>> NUMBERS["epochs"].fault(0), NUMBERS["epochs"].fault(3)
        ('0 is not a whole number from 1 to 1,000,000', None)
        >>> NUMBERS["threads"].fault(10**9)
        '1000000000 is above 1,024: no machine runs more at once'
        """
        kind: Any = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind) or not -math.inf < value < math.inf:
            return f"{brief(value)} is not {self.accepts}"
        if value < self.least or (value == self.least and "(" in self.open):
            return f"{brief(value)} is not {self.accepts}"
        if value > self.most or (value == self.most and ")" in self.open):
            return f"{brief(value)} is {self._above(value)}"
        return None

    def checked(self, value: Any, what: str = "") -> Any:
        """The value.

        :param value: what was given, of any type.
        :param what: what is called so, at the beginning of the sentence; the name by default.
        :raises InputError: if it is not in the range.
        """
        if fault := self.fault(value):
            raise InputError(f"{what or self.name}: {fault}")
        return value

    def read(self, text: str) -> int | float | None:
        """The number that a text stands for; None for the word that stands for none.

        :param text: the word as it was written.
        :raises InputError: in a clause that begins with the word, if it stands for nothing in the range, or for what
            takes more memory than there is.

        >>> NUMBERS["checkpoint_minutes"].read("0.5"), NUMBERS["checkpoint_minutes"].read("none")
        (0.5, None)
        """
        if self.none and text.strip().lower() == self.none:
            return None
        value: int | float = math.nan
        if self.whole:
            digits = text.strip().lstrip("0") or "0"
            if text.strip().isdecimal():
                # Python itself refuses to read some thousand digits, and no range has forty.
                value = int(digits) if len(digits) < 40 else 10**40
        else:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
        if self.fault(value):
            above = (self.whole and value > self.most) or self.most < value < math.inf
            raise InputError(f"{brief(text)} is {self._above(value) if above else f'not {self.accepts}'}")
        if self.each:
            refuse_beyond(int(value) * self.each, f"{brief(text)} of them")
        return value

    def _above(self, value: float) -> str:
        why = self.why or (f"so many would take {human_bytes(min(value, 2**70) * self.each)}" if self.each else "")
        why = why or ("no computer counts so far" if self.whole else "no quantity here is so large")
        return f"{'not below' if ')' in self.open else 'above'} {self.most:,.15g}: {why}"


def _seed(name: str, says: str, unset: str) -> Number:
    return Number(name, says, unset, most=2**64 - 1, why="torch's random generators take no larger seed")


def _amount(name: str, says: str, unset: str, open: str = "", none: str = "") -> Number:
    return Number(name, says, unset, whole=False, most=_LARGEST, open=open, none=none)


def _drawn(name: str, says: str) -> Number:
    return Number(name, f"{says} of the picturebook", "the benchmark's", least=1, most=_PICTURES, each=_DRAWN)


def _processes(name: str, says: str, unset: str, least: int = 0, each: int = _WORKER, flag: str = "") -> Number:
    return Number(name, says, unset, least=least, most=1024, why=_AT_ONCE, each=each, flag=flag)


_OWN = "as benchmark and recipe have it"

NUMBERS = {
    number.name: number
    for number in (
        _seed("seed", "of the training, and of the data unless --data-seed is given", "0"),
        _seed("data_seed", "of the pictures, or of the split of --data", "each --seed"),
        _amount("lr", "peak learning rate", _OWN, open="("),
        Number("epochs", "passes over each task", _OWN, least=1, most=10**6, why="no training ends after so many"),
        Number(
            "iterations",
            "of each task, in the place of whole passes",
            "as many as --epochs come to",
            least=1,
            most=10**9,
            why="no training has so many",
        ),
        Number("batch_size", "new samples per iteration", _OWN, least=1, most=10**6, why="no step takes so many"),
        Number(
            "accumulate",
            "batches that one step takes together, encoded one at a time",
            "1",
            least=1,
            most=10**6,
            why="no step takes so many",
        ),
        Number("warmup", "iterations in which the rate rises", _OWN, most=10**9, why="no training has so many"),
        _amount("weight_decay", "of AdamW", _OWN),
        _amount("max_grad_norm", "norm that gradients are clipped to, or none", "1", open="(", none="none"),
        Number(
            "label_smoothing",
            "share of class targets that is spread",
            "0",
            whole=False,
            most=1,
            open=")",
            why="something must be left of each target",
        ),
        Number("negatives", "classes that are drawn in a step to stand for all that compete", "all", least=1),
        _processes("num_workers", "processes that load data", "0", flag="--workers"),
        Number("eval_every", "tasks from one evaluation to the next", "1", least=1),
        _processes("threads", "CPU threads of torch", "torch's", least=1, each=_THREAD),
        _processes("jobs", "trainings at once, in processes among which --threads are divided", "", least=1, each=0),
        Number(
            "gpus",
            "GPUs of each run on a cluster; below 1, several runs share one",
            "1 on CUDA",
            whole=False,
            most=1,
            why="a run trains on one device",
        ),
        Number(
            "job_minutes",
            "that a job of Slurm's may take at a time, after which it is handed in again and goes on",
            "240",
            least=15,
            most=10**6,
            why="no job lasts for years",
        ),
        Number(
            "job_memory",
            "GiB that Slurm is asked for, for each run",
            "the cluster's",
            whole=False,
            most=2**16,
            open="(",
            why="no machine has so much",
        ),
        _amount(
            "checkpoint_minutes",
            "from one checkpoint within an experience to the next, fractions too; 0 writes one after every iteration, "
            "none at the experiences' ends alone",
            "10",
            none="none",
        ),
        _amount("minutes", "all pilots together take no longer", "4.5"),
        Number("max_bytes", "stored between tasks, RAM and disk together", "no limit"),
        _amount("max_train_seconds", "of training on all of the data", "no limit"),
        _amount("keep_zero_shot", "points that held-out sets may lose", "2"),
        _amount("max_forget", "points that earlier experiences may lose in the mean, or none", "2", none="none"),
        _amount(
            "max_zero_shot_loss",
            "points that held-out sets may lose in the mean, or none",
            "1, where there are held-out sets",
            none="none",
        ),
        Number("experience", "of --benchmark, numbered from 0; several are separated by commas", "the next one"),
        _drawn("n_train", "training pictures per task"),
        _drawn("n_test", "test pictures per task"),
        _drawn("n_held_out", "held-out captions"),
        _drawn("n_reference", "reference pairs"),
        Number(
            "n_experiences",
            "experiences of picturebook-classes and picturebook-time",
            "5 and 8",
            least=1,
            most=10_000,
            why="no stream here is so long",
            flag="--option n_experiences",
        ),
        Number("shots", "training images of each class of a task", "all", least=1),
        Number("steps", "steps in time that are made of --time-column", "one for each time", least=1),
        Number("split_classes", "tasks that are made of the classes of one data set", "one", least=1),
        _processes("check_workers", "processes that check images before training", "one a processor"),
        Number(
            "image_size",
            "side of the model's input in pixels",
            "its own",
            least=1,
            most=2**16,
            why="no picture that is read has so long a side",
        ),
        Number(
            "keep_tests",
            "test samples of each experience and held-out set that are kept with the model, for what later updates "
            "forget",
            "200",
        ),
        Number(
            "keep_examples",
            "test pictures whose answer changed that a run keeps for its report; 0 keeps no sample",
            "24",
            most=200,
            why="a report is a page to read",
        ),
        Number("top_k", "answers of each question", "", least=1),
        Number("port", "of the machine that is listened on; 0 is one that is free", "8000", most=65_535, why=_NO_PORT),
        Number(
            "body_bytes",
            "bytes that a request may send",
            "10000000",
            least=1,
            most=2**31,
            why="a request is held in memory",
            flag="--max-body",
        ),
        Number(
            "request_pixels",
            "pixels that an image in a request may have",
            "40000000",
            least=1,
            most=89_478_485,
            why="Pillow takes more for an attack",
            flag="--max-pixels",
        ),
        Number(
            "requests",
            "requests that are worked on or wait for it at a time",
            "8",
            least=1,
            most=1024,
            why=_AT_ONCE,
            flag="--max-requests",
        ),
        Number(
            "request_seconds",
            "seconds from the beginning of a request to its answer",
            "30",
            whole=False,
            most=86_400,
            open="(",
            why="nobody waits for a day",
            flag="--max-seconds",
        ),
        Number("examples", "samples of each set that are listed", "10"),
    )
}
"""All of them by their names. Options of recipes have their ranges in their signatures, those of published benchmarks
in their declarations."""
