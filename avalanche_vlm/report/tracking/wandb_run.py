"""A log as a run of Weights & Biases.

Avalanche's ``WandBLogger`` (0.6) makes the run's id by ``wandb.util.generate_id`` and asks values for their kind by
``wandb.viz``, neither of which wandb has any more; gives each metric's own step as wandb's, which only rises, so that
whatever comes with a lower one is dropped; and logs what came at an experience's end twice.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from avalanche.logging import WandBLogger
from matplotlib.figure import Figure as Plot
from PIL.Image import Image
from torch import Tensor

from avalanche_vlm.errors import InputError
from avalanche_vlm.report.tracking.about import AboutRun, Log
from avalanche_vlm.report.tracking.base import GoesOn, under_plain_names
from avalanche_vlm.report.tracking.guarded import why
from avalanche_vlm.storage.durable import make_folder

PROJECT = "avalanche-vlm"
"""Where runs are, unless ``WANDB_PROJECT`` says another."""
AT = "x_plot"
"""The axis of all metrics: the step that each has of its own, as Avalanche calls it."""
PATIENCE = 20.0
"""Seconds to wait for the server at first."""
UPLOAD = 60.0
"""Seconds to wait at the end for what it has not taken yet, and what stays on the disk for ``wandb sync``."""
_OLD_SERVER = "api.wandb.ai"
"""Where the key of the public server stands in ``~/.netrc``, whatever it is called by now."""
_QUIET = {"silent": True, "console": "off", "disable_git": True, "save_code": False, "disable_code": True}
_PRIVATE = {
    "x_disable_meta": True,  # arguments, paths, names of machine and user
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "disable_job_creation": True,
    "host": "",
}


class WandBTracker(GoesOn, WandBLogger):
    """Avalanche's logger of Weights & Biases, mended. Neither code, arguments and output of the program are sent,
    nor what the machine is and does.

    It goes by wandb's own variables and settings (``wandb offline``, ``wandb login --host``): it logs to the server if
    they do not say otherwise, there is a key for it and the server answers, and else to the disk, for ``wandb sync``.
    Nobody is asked for anything.

    What wandb has written it does not tell: the steps between a checkpoint and a kill come twice, at the same place.

    :param folder: folder of the files, which several runs share.
    :param about: the run that is logged.
    :param log: its log, whose name is the run's id.
    :param remark: is told if the server does not answer, in a sentence.
    """

    def __init__(
        self, folder: Path, about: AboutRun, log: Log, remark: Callable[[str], None] = lambda sentence: None
    ) -> None:
        make_folder(folder)
        self.remark = remark
        self.run: Any = None
        super().__init__(
            project_name=os.environ.get("WANDB_PROJECT", PROJECT),
            run_name=about.title,
            save_code=False,
            config=dict(about.settings),
            dir=folder,
            params={"id": log.known, "tags": [f"{name}:{of}"[:64] for name, of in about.tags.items()]},
        )

    def before_run(self) -> None:
        """Begin the run, or go on with it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        settings = self.wandb.setup().settings
        on_line, asked = settings.mode == "online", bool(os.environ.get("WANDB_MODE"))
        if on_line and not has_key(settings):
            if asked:
                raise InputError(f"WANDB_MODE is online, and there is no key for {settings.base_url}: wandb login")
            self.run = self._begun("offline")
        else:
            try:
                self.run = self._begun(None)  # in the mode that wandb's own settings say
            except Exception as error:  # wandb has several kinds
                if asked or not on_line:
                    raise
                gone = isinstance(error, self.wandb.errors.CommError | TimeoutError)
                what = "the server does not answer" if gone else "it could not begin on the server"
                self.remark(f"wandb logs to {self.dir}, since {what}: {why(error)}")
                self.run = self._begun("offline")
        self.run.define_metric(AT, hidden=True)
        self.run.define_metric("*", step_metric=AT)

    def _begun(self, mode: str | None) -> Any:
        waiting = {"init_timeout": PATIENCE, "finish_timeout": UPLOAD, "finish_timeout_raises": True}
        settings = self.wandb.Settings(**_QUIET, **_PRIVATE, **waiting)
        return self.wandb.init(**self.init_kwargs, mode=mode, resume="allow", reinit="create_new", settings=settings)

    def after_training_exp(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what comes at an experience's end was logged with all else."""

    def log_metrics(self, metric_values: Iterable[Any]) -> None:
        """Log values, those of one step together.

        :param metric_values: values that metrics have published.
        """
        by_step: dict[int, dict[str, Any]] = {}
        for value in under_plain_names(metric_values):
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


def has_key(settings: Any) -> bool:
    """Whether there is a key for the server, so that wandb need not ask for one.

    :param settings: wandb's, as its variables, its files and a login have made them.
    """
    if settings.api_key or settings.identity_token_file or os.environ.get("WANDB_API_KEY"):
        return True
    servers = {urlsplit(settings.base_url).netloc}
    if not os.environ.get("WANDB_BASE_URL"):
        servers.add(_OLD_SERVER)
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
        return any(known.authenticators(server) for server in servers)
    except (OSError, netrc.NetrcParseError):
        return False
