"""One month more: a saved model learns what is new, and takes the old one's place if it lost little enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.artifacts import open_saved, version_names
from avalanche_vlm.artifacts.layout import VERSIONS, model_version
from avalanche_vlm.benchmarks.fingerprint import data_of
from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs, VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models import VLM
from avalanche_vlm.storage import Lock
from avalanche_vlm.studies.feasible import resources
from avalanche_vlm.studies.living.answers import SampleAnswers, answers_of
from avalanche_vlm.studies.living.asking import (
    check_device,
    fresh_sets,
    kept_of,
    refuse_growth,
    refuse_untested,
    sets_aside,
)
from avalanche_vlm.studies.living.first import read_identities, write_identities
from avalanche_vlm.studies.living.gates import GateFinding, judge_gate, why_not
from avalanche_vlm.studies.living.growth import continued
from avalanche_vlm.studies.living.kept import KEPT_BY_DEFAULT, keep_tests, kept_sets
from avalanche_vlm.studies.living.learning import Learner, learn, revived
from avalanche_vlm.studies.living.records import Record, now, read_record, settle
from avalanche_vlm.studies.living.unfinished import Unfinished, refuse_finished, version_to_make
from avalanche_vlm.studies.living.version_files import former_settings, save_version
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import CHECKPOINT_MINUTES, TrainSettings

Promote = Literal["judged", "unjudged", "always", "never"]
"""When a new version becomes the model: if all limits were judged and kept; if none was broken, though some could not
be judged; whatever the gates say; or not at all."""

Month = VLMBenchmark | Callable[[VLM], VLMBenchmark]
"""What is new, or what makes it of the model that is to read it."""


@dataclass(frozen=True)
class Update:
    """What an update came to.

    :param version: name of the new version.
    :param promoted: whether it is the model now.
    :param findings: what the gates say.
    :param record: what is known of the version.
    :param folder: the version's folder.
    :param overtaken: name of the version that became the model meanwhile in the place of the one that this goes on
        from, which is why this one is not promoted; None for none.
    """

    version: str
    promoted: bool
    findings: tuple[GateFinding, ...]
    record: Record
    folder: Path
    overtaken: str | None = None

    @property
    def refusal(self) -> str | None:
        """Why the version is no more than a candidate; None for one that was promoted."""
        if self.promoted:
            return None
        if self.overtaken is not None:
            parent = self.record.parent
            return f"{self.overtaken} has become the model meanwhile, and {self.version} goes on from {parent}"
        return why_not(self.findings) or "nothing was to be promoted"


def update(
    folder: str | Path,
    month: Month,
    *,
    experiences: Sequence[int] | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: TrainSettings | None = None,
    reference: ReferencePairs | None = None,
    generator: Generator | None = None,
    held_out: Sequence[HeldOutSet] = (),
    keep: int = KEPT_BY_DEFAULT,
    max_forget: float | None = 2.0,
    max_zero_shot_loss: float | None = 1.0,
    zero_shot_asked: bool = False,
    promote: Promote = "judged",
    device: str | torch.device = "cpu",
    base: VLM | None = None,
    checkpoint_minutes: float | None = CHECKPOINT_MINUTES,
    signals: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    said: Callable[[str], None] | None = None,
) -> Update:
    """Learn more experiences on top of a saved model, with all that it keeps, as a version beside the one that it goes
    on from. Settings and options are those of before, unless they are given. One update at a time works in a folder; a
    rollback meanwhile is heeded, and leaves the new version a candidate.

    The new version and the one before answer the same questions: the test samples that were kept of the experiences
    learned before, and held-out sets. A mean loss above a limit leaves the new version a candidate.

    :param folder: the folder that the model was saved to.
    :param month: benchmark with what is new, read as the model reads, or a function that makes it of the model.
    :param experiences: which of its experiences are new, by their numbers; None for all.
    :param recipe: name of another recipe to go on with; None for the one that the model was trained with.
    :param options: options of the recipe that differ from those of before.
    :param settings: training settings; None for those of before.
    :param reference: reference pairs for the recipe; None for those of ``month``.
    :param generator: generator of pictures for the recipe; None for that of ``month``.
    :param held_out: sets that nothing trains, besides those that were kept and those of ``month``.
    :param keep: test samples of each new experience that are kept for later updates; 0 for none.
    :param max_forget: points that the experiences learned before may lose in the mean; None for no limit.
    :param max_zero_shot_loss: points that held-out sets may lose in the mean; None for no limit.
    :param zero_shot_asked: whether that limit counts as broken where there is no held-out set; otherwise the update
        says that nobody knows.
    :param promote: when the new version becomes the model, one of :data:`Promote`.
    :param device: where to run.
    :param base: the model's base, for one that was built by the user's own hands.
    :param checkpoint_minutes: minutes between two checkpoints within an experience; None for checkpoints at the
        experiences' ends alone. An update that was killed goes on where it was when it is called again, also where its
        version was whole and nothing had said yet whether it becomes the model.
    :param signals: whether SIGTERM and SIGINT end the update with a checkpoint, which only the main thread can ask for.
    :param progress: called as ``(experience, iteration, iterations)``.
    :param said: called with a sentence about what goes on.
    :return: the version, what the gates say, and whether it is the model now.
    :raises InputError: in one sentence, if the model cannot go on learning or what is new cannot be used; nothing has
        changed then.
    """
    if promote not in get_args(Promote):
        raise InputError(f"promote is {', '.join(get_args(Promote))}, not {promote!r}")
    for name, limit in (("max_forget", max_forget), ("max_zero_shot_loss", max_zero_shot_loss)):
        if limit is not None and not 0 <= limit < math.inf:
            raise InputError(f"{name} is a number of points, 0 or more, or None for no limit, not {limit!r}")
    whole(keep, 0, "the number of test samples that are kept (keep)")
    check_device(device)
    folder, say = Path(folder), said or _silent
    if not version_names(folder):
        raise InputError(f"there is no saved model in {folder} to update")
    with Lock(folder):
        parent = model_version(folder)
        refuse_finished(folder, parent)
        saved, known = open_saved(folder / VERSIONS / parent), read_record(folder, parent)
        reader = saved.model(device=device, base=copy.deepcopy(base))  # the model as it answers now
        stream_of = month if callable(month) else None
        new = stream_of(reader) if stream_of is not None else month
        if not isinstance(new, VLMBenchmark):
            raise InputError(f"what is new is a benchmark, or a function that makes one, not a {type(new).__name__}")
        if (learns := "pairs" if saved.label_space is None else "classes") != new.kind:
            raise InputError(f"the model has learned a stream of {learns}, and {new.name} is one of {new.kind}")
        chosen = recipe or (known.recipe or "")
        if settings is None:
            settings = former_settings(saved)
            if chosen != known.recipe:
                settings = replace(settings, train_classes=None)  # what the method needs, and not what another one did
        settings = settled(settings, chosen, new.kind)
        new.reference, new.generator = reference or new.reference, generator or new.generator
        taken = resources(chosen, new)
        learned = [of.name for of in known.experiences]
        identities = read_identities(folder, parent) if new.kind == "pairs" else None
        stream = continued(saved.label_space, learned, new, experiences, identities)
        refuse_growth(chosen, saved, stream)
        first = len(learned)
        refuse_untested(stream, first)

        asked = list(kept_sets(folder, known.experiences, reader.transforms.eval))
        aside = sets_aside(folder, known.held_out, (*new.held_out, *held_out), reader)
        if again := kept_of(known.held_out, (*new.held_out, *held_out)):
            say(f"measured on the samples that were kept of them, as before: {', '.join(again)}")
        with generators_kept(reader.device):
            before = {of.name: answers_of(reader, of) for of in asked}
            before_aside = {of.name: answers_of(reader, of) for of in aside}
        learner = revived(
            saved,
            recipe,
            options or {},
            {name: value for name, value in taken.items() if value is not None},
            train_classes=settings.train_classes,
            device=device,
            base=copy.deepcopy(base),
        )
        del reader
        if stream.label_space is not None:
            learner.model.grow_label_space(stream.label_space)
        with generators_kept(learner.model.device):
            fresh_before = {of.name: answers_of(learner.model, of) for of in fresh_sets(stream, first)}
        request = _request(parent, learner, settings, stream, first)
        version, whole_already = version_to_make(folder, request)
        unfinished = Unfinished(folder, version, request, checkpoint_minutes)
        unfinished.plugin.also |= {"passed_over": new.data.passed_over} if new.data.passed_over else {}
        model, where = learner.model, folder / VERSIONS / version
        if whole_already:
            say(f"{version} was trained by an update that was killed before it ended: its answers decide now")
            model = open_saved(where).model(device=device, base=copy.deepcopy(base))
        else:
            say(f"{parent} learns {', '.join(stream.task_names[first:])} by {learner.recipe.recipe}")
            with unfinished.listening(signals):
                learn(
                    learner,
                    stream,
                    first,
                    settings,
                    device=device,
                    progress=progress,
                    further=[unfinished.plugin],
                    resume=unfinished.resume,
                )
        with generators_kept(model.device):
            after = {of.name: answers_of(model, of) for of in asked}
            after_aside = {of.name: answers_of(model, of) for of in aside}
            fresh_after = {of.name: answers_of(model, of) for of in fresh_sets(stream, first)}
        findings = (
            judge_gate("forget", max_forget, before, after, [of.name for of in known.experiences if of.file is None]),
            judge_gate("zero-shot loss", max_zero_shot_loss, before_aside, after_aside),
        )
        experiences_kept, held_out_kept = keep_tests(
            folder,
            stream,
            model.transforms.eval,
            keep,
            owner=version,
            experiences=range(first, len(stream.task_names)),
        )
        record = Record(
            version=version,
            made=now(),
            parent=parent,
            recipe=learner.recipe.recipe,
            experiences=[*known.experiences, *experiences_kept],
            held_out=known.held_out if any(of.file for of in known.held_out) else held_out_kept,
            promoted=False,
            gates=list(findings),
            scores=_scores({**after, **fresh_after, **after_aside}),
            before=_scores({**before, **fresh_before, **before_aside}),
        )
        if identities is not None:
            write_identities(folder, version, identities)
        if not whole_already:
            save_version(folder, version, parent, saved, learner, stream, settings, new, record)
        record, overtaken = settle(folder, record, promotes(findings, promote, zero_shot_asked))
        unfinished.done()
        return Update(version, record.promoted, findings, record, where, overtaken)


def promotes(findings: Sequence[GateFinding], promote: Promote, zero_shot_asked: bool) -> bool:
    """Whether a version becomes the model.

    :param findings: what the gates say.
    :param promote: when a version becomes the model, one of :data:`Promote`.
    :param zero_shot_asked: whether a limit of zero-shot loss that cannot be judged counts.
    """
    if promote in ("always", "never"):
        return promote == "always"
    verdicts = {of.gate: of.verdict for of in findings}
    if verdicts["zero-shot loss"] == "unjudged" and not zero_shot_asked:
        verdicts["zero-shot loss"] = "off"  # nobody has held-out sets of data of his own unless he makes some
    stops = ("broken", "unjudged") if promote == "judged" else ("broken",)
    return not any(verdict in stops for verdict in verdicts.values())


def _request(
    parent: str, learner: Learner, settings: TrainSettings, stream: VLMBenchmark, first: int
) -> dict[str, Any]:
    """All that decides what an update trains, in JSON types."""
    return {
        "goes on from": parent,
        "recipe": learner.recipe.recipe,
        "options": recipes.all_options(learner.recipe.recipe, learner.recipe.options),
        "train": {name: value for name, value in asdict(settings).items() if name != "num_workers"},
        "experiences": list(stream.task_names[first:]),
        "data": data_of(stream)["content"]["train"],
    }


def _scores(answers: Mapping[str, SampleAnswers]) -> dict[str, float | None]:
    return {name: round(100 * of.score, 4) for name, of in answers.items()}


def _silent(sentence: str) -> None:
    """Say nothing."""
