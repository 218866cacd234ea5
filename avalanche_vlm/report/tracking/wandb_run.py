"""A log as a run of Weights & Biases.

Avalanche's ``WandBLogger`` (0.6) makes the run's id by ``wandb.util.generate_id`` and asks values for their kind by
``wandb.viz``, neither of which wandb has any more; gives each metric's own step as wandb's, which only rises, so that
whatever comes with a lower one is dropped; and logs what came at an experience's end twice.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from avalanche.logging import WandBLogger
from matplotlib.figure import Figure as Plot
from PIL.Image import Image
from torch import Tensor

from avalanche_vlm.report.tracking.about import AboutRun
from avalanche_vlm.report.tracking.base import GoesOn
from avalanche_vlm.storage.durable import make_folder

PROJECT = "avalanche-vlm"
"""Where runs are, unless ``WANDB_PROJECT`` says another."""
AT = "x_plot"
"""The axis of all metrics: the step that each has of its own, as Avalanche calls it."""
PATIENCE = 20.0
"""Seconds to wait for the server at first."""
UPLOAD = 60.0
"""Seconds to wait at the end for what it has not taken yet, and what stays on the disk for ``wandb sync``."""
_QUIET = {"silent": True, "console": "off", "disable_git": True, "save_code": False, "disable_code": True}


class WandBTracker(GoesOn, WandBLogger):
    """Avalanche's logger of Weights & Biases, mended. Neither code nor output of the program is sent.

    Without ``WANDB_MODE`` it logs to the server if there is a key for it (``WANDB_API_KEY``, or an entry of
    ``~/.netrc``) and the server answers, and otherwise to the disk, for ``wandb sync``. Nobody is asked for anything.

    What wandb has written it does not tell: the steps between a checkpoint and a kill come twice, at the same place.

    :param folder: folder of the files, which several runs share.
    :param about: the run that is logged.
    :param remark: is told if the server does not answer, in a sentence.
    """

    def __init__(self, folder: Path, about: AboutRun, remark: Callable[[str], None] = lambda sentence: None) -> None:
        make_folder(folder)
        self.remark = remark
        self.run: Any = None
        super().__init__(
            project_name=os.environ.get("WANDB_PROJECT", PROJECT),
            run_name=about.title,
            save_code=False,
            config=dict(about.settings),
            dir=folder,
            params={"id": about.run, "tags": [f"{name}:{of}"[:64] for name, of in about.tags.items()]},
        )

    def before_run(self) -> None:
        """Begin the run, or go on with it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        mode = mode_of(os.environ)
        try:
            self.run = self._begun(mode)
        except Exception as error:  # wandb has several kinds for a server that is not there
            if mode != "online" or os.environ.get("WANDB_MODE"):
                raise
            self.remark(f"wandb logs to {self.dir}, since the server does not answer: {error}")
            self.run = self._begun("offline")
        self.run.define_metric(AT, hidden=True)
        self.run.define_metric("*", step_metric=AT)

    def _begun(self, mode: str) -> Any:
        waiting = {"init_timeout": PATIENCE, "finish_timeout": UPLOAD, "finish_timeout_raises": True}
        settings = self.wandb.Settings(**_QUIET, **waiting)
        return self.wandb.init(**self.init_kwargs, mode=mode, resume="allow", reinit="create_new", settings=settings)

    def after_training_exp(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what comes at an experience's end was logged with all else."""

    def log_metrics(self, metric_values: Iterable[Any]) -> None:
        """Log values, those of one step together.

        :param metric_values: values that metrics have published.
        """
        by_step: dict[int, dict[str, Any]] = {}
        for value in metric_values:
            if (shown := self._shown(value.value)) is not None:
                by_step.setdefault(value.x_plot, {})[value.name] = shown
        for step, values in by_step.items():
            self.run.log({**values, AT: step})

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Log one value.

        :param name: name of the metric.
        :param value: the value; what wandb does not take is left out.
        :param x_plot: the step that it is of.
        """
        if (shown := self._shown(value)) is not None:
            self.run.log({name: shown, AT: x_plot})

    def _shown(self, value: Any) -> Any:
        """A value as wandb takes it; None for what it does not."""
        if isinstance(value, AlternativeValues):
            value = value.best_supported_value(Image, Tensor, TensorImage, Plot, float, int)
        if isinstance(value, TensorImage):
            return self.wandb.Image(value.image)
        if isinstance(value, Image | Plot):
            return self.wandb.Image(value)
        if isinstance(value, Tensor):
            return self.wandb.Histogram(value.flatten().tolist())
        return value if isinstance(value, float | int) else None

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


def mode_of(environment: Mapping[str, str]) -> str:
    """Whether runs go to the server or to the disk.

    :param environment: variables of the environment.
    :return: what ``WANDB_MODE`` says; otherwise ``online`` where there is a key, and ``offline`` without.

    >>> mode_of({"WANDB_API_KEY": "k"}), mode_of({"WANDB_MODE": "disabled"}), mode_of({"NETRC": "/nowhere"})
    ('online', 'disabled', 'offline')
    """
    if said := environment.get("WANDB_MODE"):
        return said
    if environment.get("WANDB_API_KEY"):
        return "online"
    server = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        known = netrc.netrc(environment.get("NETRC")).authenticators(server)
    except (OSError, netrc.NetrcParseError):
        known = None
    return "offline" if known is None else "online"
