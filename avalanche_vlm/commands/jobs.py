"""The experiments of ``run`` and ``compare``: kept where they are finished, gone on with, or run."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, locked, say_where
from avalanche_vlm.commands.kept_views import VIEWS_FILE, cut_examples, write_views
from avalanche_vlm.commands.progress import Progress, ToldProgress
from avalanche_vlm.commands.requests import Experiment, Saving
from avalanche_vlm.errors import DataWarning
from avalanche_vlm.storage.durable import replace_file, write_or_remark

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.evaluation.views import Views
    from avalanche_vlm.report.tracking import Trackers
    from avalanche_vlm.studies.outcome import Outcome

LEAVING = 5.0
"""Seconds in which a worker leaves whose command was killed a moment ago: it ends when it sees that."""

FAILURE = "failure.txt"
"""Why a run has failed, and where: in its folder until it is run again."""


LOGS = "logs"
"""The folder of what trackers write, in that of the command."""

KEPT_EXAMPLES = 24
"""Test pictures whose answer changed that a run keeps unless something else is said."""


@dataclass(frozen=True)
class Logs:
    """Where the training of an experiment is logged.

    :param names: names of trackers.
    :param out: the folder of the command, in which all its logs are.
    """

    names: tuple[str, ...]
    out: Path

    def of(self, job: Job, remark: Callable[[str], None]) -> Trackers:
        """The trackers of an experiment.

        :param job: the experiment, with its folder.
        :param remark: is told what fails, in a sentence.
        """
        from avalanche_vlm.report.tracking import Trackers

        within = job.folder.relative_to(self.out)
        about = {"run": job.asked.run_id, "title": str(job), "within": within}

        def named(sentence: str) -> None:
            remark(f"{job}: {sentence}")

        return Trackers(self.names, self.out / LOGS, remark=named, **about)


@dataclass(frozen=True, eq=False)
class Job:
    """One experiment and where its result goes.

    :param asked: what is run.
    :param folder: the folder of its result.
    :param saving: what is saved of its model.
    :param kept: result, timing and ledger, if it was finished before.
    :param begun: the protocol of a run that was interrupted, and goes on.
    :param row: name of its row among the others, and of the folder that its seeds share; the recipe by default.
    :param logs: trackers that its training is logged to.
    :param shard: whether each of several processes keeps a part of the towers.
    """

    asked: Experiment
    folder: Path
    saving: Saving
    kept: store.RunEntry | None
    begun: dict[str, Any] | None
    row: str = ""
    logs: Logs | None = None
    shard: bool = False

    def __str__(self) -> str:
        return f"{self.row}, seed {self.asked.seed}" if self.row else str(self.asked)


def job_of(
    asked: Experiment, folder: Path, saving: Saving, row: str = "", logs: Logs | None = None, shard: bool = False
) -> Job:
    """What is to be done for an experiment.

    :param asked: what is run.
    :param folder: the folder of its result.
    :param saving: what is saved of its model.
    :param row: name of its row among the others; the recipe by default.
    :param logs: trackers that its training is logged to; None logs nothing.
    :param shard: whether each of several processes keeps a part of the towers.
    :raises InputError: if the folder holds what is of another request.
    """
    kept = store.finished(folder, asked)
    return Job(asked, folder, saving, kept, None if kept else store.unfinished(folder, asked), row, logs, shard)


def confirm_all(jobs: Sequence[Job]) -> None:
    """Refuse finished results, and unfinished ones, whose data, model or resources have changed since, before anything
    is trained.

    :param jobs: all that one command runs.
    :raises InputError: naming what has changed.
    """
    from avalanche_vlm.studies.conditions import conditions_of

    there = [(job, job.kept["result"], "a result") for job in jobs if job.kept is not None]
    there += [(job, {"protocol": job.begun}, "an unfinished run") for job in jobs if job.begun is not None]
    for seed in dict.fromkeys(job.asked.seed for job, *_ in there):
        of_seed = [entry for entry in there if entry[0].asked.seed == seed]
        # All that one command runs with a seed starts from the same data and the same weights.
        model, benchmark = prepare.opened(_seen_here(of_seed[0][0].asked), shard=of_seed[0][0].shard)
        conditions = conditions_of(benchmark, model)
        for job, result, what in of_seed:
            protocol = prepare.protocol(job.asked, model, benchmark, conditions)
            store.confirm(job.folder, job.asked, result, protocol, what)


def _seen_here(asked: Experiment) -> Experiment:
    """The experiment on a device that this machine has: what is trained on a cluster may have another."""
    import torch

    away = asked.device.startswith("cuda") and not torch.cuda.is_available()
    return asked.model_copy(update={"device": "cpu"}) if away else asked


def execute(job: Job, minutes: float | None, command: Command, progress: Progress) -> store.RunEntry:
    """The stored result of this experiment, or a new one.

    :param job: the experiment, with its folder.
    :param minutes: minutes from one checkpoint to the next; None for checkpoints at the experiences' ends alone.
    :param command: writes the checkpoints, and can be told to end.
    :param progress: shows how far it is.
    :return: ``result``, ``timing`` and ``ledger``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the notes on the data say it, once
        return _executed(job, minutes, command, progress)


def execute_in_worker(
    job: Job, minutes: float | None, shown: bool, tell: Callable[[Any], None], *, leaving: float = LEAVING
) -> store.RunEntry:
    """The same in a process of its own, which holds the lock of the run's folder.

    :param job: the experiment, with its folder.
    :param minutes: minutes from one checkpoint to the next; None for checkpoints at the experiences' ends alone.
    :param shown: whether whoever hears of it shows bars.
    :param tell: takes what is told of its progress.
    :param leaving: seconds in which another worker leaves the folder that is gone.
    :return: ``result``, ``timing`` and ``ledger``.
    """
    command = Command(job.folder, patient=True)
    with command.interruptible(), locked(job.folder, leaving):
        return execute(job, minutes, command, ToldProgress(tell, shown))


def note_failure(job: Job, sentence: str, traceback: str) -> None:
    """Write down why a run has failed, where it can be: the sentence is said in any case.

    :param job: the experiment, with its folder.
    :param sentence: the reason, in a sentence.
    :param traceback: where it was.
    """
    text = f"{job}: {sentence}\n\n{traceback}"
    write_or_remark(lambda: store.write_text(job.folder / FAILURE, text), lambda why: None)


def _executed(job: Job, minutes: float | None, command: Command, progress: Progress) -> store.RunEntry:
    from avalanche_vlm.evaluation.views import Views
    from avalanche_vlm.report import plots
    from avalanche_vlm.report.tracking import Trackers
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.studies.outcome import percent_rows
    from avalanche_vlm.training.checkpoint.folder import remove_checkpoints

    asked, folder, picture = job.asked, job.folder, job.folder / "matrix.png"
    with contextlib.suppress(OSError):  # where nothing can be written, that is said of what must be
        (folder / FAILURE).unlink(missing_ok=True)
    so_far = folder / store.PARTIAL
    if job.kept is not None:
        progress.say(f"{job}: finished before, kept")
        store.check_first_version(folder, job.kept["result"]["run"])
        if job.saving.model and not (folder / "model").exists():
            progress.say(f"{job}: its model was not saved then; another --out runs it again and saves it")
        # Of a process that was killed when it had written the result.
        remove_checkpoints(folder / store.CHECKPOINTS)
        so_far.unlink(missing_ok=True)
        if (most := job.saving.examples) is not None:
            cut_examples(folder, asked.run_id, most)
        if not picture.exists():
            kept = job.kept["result"]
            draw_plot(picture, lambda: plots.matrices([kept]), progress)
        return job.kept
    if (folder / store.RESULT_FILE).exists():
        progress.say(f"{job}: {folder / store.RESULT_FILE} is damaged, run again")
    started = time.perf_counter()
    if job.begun is None:
        so_far.unlink(missing_ok=True)  # of another request, of which nothing was trained
    store.write_request(folder, asked)
    model, benchmark = prepare.opened(asked, shard=job.shard)
    for sentence in benchmark.data.skipped:
        progress.say(f"left out: {sentence}")
    for sentence in benchmark.data.notes:
        progress.say_once(sentence)

    examples = KEPT_EXAMPLES if job.saving.examples is None else job.saving.examples
    views = Views(benchmark, examples, asked.train.eval_tasks, asked.train.eval_every)

    def on_step(step: int, matrix: Any) -> None:
        keep = partial(store.write_partial, folder, asked, step, percent_rows(matrix))  # which ``report`` reads
        write_or_remark(keep, progress.say_once)

    with (
        command.training(folder / store.CHECKPOINTS, minutes) as checkpoint,
        # closed when the result is written: a server that is slow to take the rest keeps nobody from it
        Trackers() if job.logs is None else job.logs.of(job, progress.say_once) as trackers,
    ):
        command.begins()
        with progress.task(str(job), len(benchmark.task_names)) as advance:
            outcome = run_experiment(
                benchmark,
                asked.recipe,
                model=model,
                settings=asked.train,
                options=asked.recipe_options,
                seed=asked.seed,
                device=asked.device,
                shard=job.shard,
                progress=advance,
                on_step=on_step,
                checkpoint=checkpoint,
                on_resume=lambda plugin: say_where(progress, job, plugin),
                metrics=[*trackers.metrics, *views.metrics],
                loggers=trackers,
            )
        trackers.finished()
        if job.saving.model:
            _save_model(job, outcome, benchmark, progress)
        total = time.perf_counter() - started + outcome.seconds_before
        entry = store.write_outcome(folder, asked, outcome, total, progress.say)
    so_far.unlink(missing_ok=True)
    _keep_views(job, views, examples, progress)
    draw_plot(picture, lambda: plots.matrices([outcome.result]), progress)
    return entry


def _keep_views(job: Job, views: Views, most: int, progress: Progress) -> None:
    """Write what a report shows besides the result, which is there already: that it cannot be had is a remark."""
    try:
        seen = views.as_json()
        write_views(job.folder, job.asked.run_id, seen)
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        progress.say(f"{job.folder / VIEWS_FILE} could not be written, and all results are there: {why}")
        return
    if seen["examples"] and job.asked.stream.data:
        progress.say_once(
            f"{most} test pictures of each run at most, whose answer changed, are kept in its {VIEWS_FILE} for the "
            "report (--keep-examples 0 keeps none)"
        )


def _save_model(job: Job, outcome: Outcome, benchmark: VLMBenchmark, progress: Progress) -> None:
    """The model as the first version, with what its updates need."""
    from avalanche_vlm.studies.living.first import record_first
    from avalanche_vlm.studies.living.kept import KEPT_BY_DEFAULT
    from avalanche_vlm.training.protocol import model_of

    outcome.save(job.folder, embed_base=job.saving.base, version="v1", about={store.RUN: job.asked.run_id})
    samples = KEPT_BY_DEFAULT if job.saving.tests is None else job.saving.tests
    record_first(job.folder, "v1", benchmark, model_of(outcome.strategy), samples)
    if samples and job.asked.stream.data:
        progress.say_once(
            f"{samples} test samples of each task at most are kept in {job.folder / 'tests'}, to measure what updates "
            "forget (--no-raw-data keeps none)"
        )


_MOST_PIXELS = 6e4
"""Pixels along one side of a plot, at most: matplotlib draws none with 2^16 or more."""
_MOST_AREA = 1e8
"""Pixels of a whole plot, at most: 400 MB while it is drawn."""


def draw_plot(path: Path, plot: Callable[[], Figure], progress: Progress) -> None:
    """Draw a plot of what is written already: one that cannot be drawn is a remark, and no reason to fail.

    :param path: the file that is replaced.
    :param plot: makes the plot.
    :param progress: is told if it could not be drawn.
    """
    try:
        save_figure(path, plot())
    except Exception as error:  # fonts, drawing and the disk each have their own
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        progress.say(f"{path} could not be drawn, and all results are there: {why}")


def save_figure(path: Path, figure: Figure) -> None:
    """Draw a plot, at most so large as can be drawn.

    :param path: the file that is replaced.
    :param figure: what is drawn.
    """
    width, height = figure.get_size_inches()
    dpi = min(150, _MOST_PIXELS / max(width, height), (_MOST_AREA / (width * height)) ** 0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    replace_file(path, buffer.getvalue())
