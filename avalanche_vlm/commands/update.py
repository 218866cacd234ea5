"""``update``: one month more for a saved model."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import Experiment, ModelRequest, StreamRequest, UpdateRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell

if TYPE_CHECKING:
    from avalanche_vlm.artifacts import SavedModel
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.models import VLM
    from avalanche_vlm.training.settings import TrainSettings

NOT_PROMOTED = 3
"""Exit code of an update whose version was trained and kept, and is not the model: no error, and no success either."""

_LASTING = ("kind", "class_names", "image_root")
"""Options of a user's own data that hold for the next month as well, besides names of columns."""


def update(request: UpdateRequest) -> int:
    """One month more for a saved model.

    :param request: what was asked for.
    :return: exit code of the process: 0, or :data:`NOT_PROMOTED`.
    """
    from avalanche_vlm.artifacts import open_saved
    from avalanche_vlm.artifacts.layout import model_version
    from avalanche_vlm.benchmarks.reading import reading_by
    from avalanche_vlm.studies.living.kept import KEPT_BY_DEFAULT
    from avalanche_vlm.studies.living.records import keeps_no_tests, read_record
    from avalanche_vlm.studies.living.updating import update as learn

    version = read_record(request.out, model_version(request.out))
    saved = open_saved(request.out)
    recipe = request.recipe or version.recipe
    if recipe is None:
        raise InputError(f"{request.out} was trained with no recipe of a name: name one with --recipe")
    base = _base(request, saved)
    request = request.model_copy(update={"recipe": recipe, "model": _model_of(saved)})
    settings, options = _settings(request, saved, same=recipe == version.recipe)
    earlier = _earlier(request.out, saved)
    chosen = request.experiences
    if request.stream.benchmark is not None and chosen is None:
        chosen = (len(version.experiences),)
    forget, zero_shot = (_points(request, name, default) for name, default in
                         (("max_forget", 2.0), ("max_zero_shot_loss", 1.0)))  # fmt: skip
    with (
        watched(request.quiet) as progress,
        progress.task(f"update by {recipe}", 1) as advance,
        reading_by(settings.num_workers),
    ):
        opened: list[VLMBenchmark] = []
        keep = KEPT_BY_DEFAULT if request.tests is None else request.tests
        if request.tests is None and keeps_no_tests(request.out, version):
            keep = 0  # whoever wanted none of his samples kept has not to say it again every month
            progress.say(f"no test samples are kept, as none of {version.version}'s were (--keep-tests N keeps some)")

        def month(model: VLM) -> VLMBenchmark:
            found = _month(request, recipe, settings, earlier, saved, model)
            opened.append(found)
            for sentence in (*(f"left out: {of}" for of in found.data.skipped), *found.data.notes):
                progress.say_once(sentence)
            return found

        done = learn(
            request.out,
            month,
            experiences=chosen,
            recipe=recipe,
            options=options,
            settings=settings,
            keep=keep,
            max_forget=forget,
            max_zero_shot_loss=zero_shot,
            zero_shot_asked="max_zero_shot_loss" in request.limits,
            promote=request.promote,
            checkpoint_minutes=request.checkpoint_minutes,
            device=prepare.device_of(request.device),
            base=base,
            signals=threading.current_thread() is threading.main_thread(),
            progress=None if advance is None else lambda _, *of: advance(0, *of),
            said=progress.say,
        )
        for sentence in (of for new in opened for of in new.data.passed_over.as_json()["files"]):
            progress.say_once(f"passed over: {sentence}")
    if request.as_json:
        tell(json.dumps({**done.record.model_dump(mode="json"), "refusal": done.refusal}, indent=1))
    else:
        _say(done.record.model_dump(mode="json"))
        for finding in done.findings:
            tell(finding.sentence)
        tell(
            f"{done.version} is the model now" if done.promoted else
            f"{done.version} is not promoted, {done.overtaken or version.version} stays the model: {done.refusal}"
        )  # fmt: skip
    return 0 if done.promoted or request.promote == "never" else NOT_PROMOTED


def _points(request: UpdateRequest, name: str, default: float) -> float | None:
    """A limit in points; None for no limit."""
    given = request.limits.get(name, default)
    return None if given == "none" else float(given)


def _say(record: dict[str, Any]) -> None:
    """Scores of the version before and of the new one."""
    for name, after in record["scores"].items():
        before = record["before"].get(name)
        was = "" if before is None else f"{before:.1f} before, "
        tell(f"{name}: {was}{after:.1f} now")


def _base(request: UpdateRequest, saved: SavedModel) -> VLM | None:
    """The base of a model whose code the user trusts, which no file may make."""
    if not request.model.trust_remote_code:
        return None
    earlier = _earlier(request.out, saved)
    if saved.description.base.origin is not None or earlier is None:
        raise InputError(
            f"--trust-remote-code is for a model that run has made with it: {request.out} holds no other code"
        )
    return prepare.fresh_model(earlier, trust=True)


def _model_of(saved: SavedModel) -> ModelRequest:
    """The model by the name that settings are chosen by."""
    origin = saved.description.base.origin
    return ModelRequest() if origin is None else ModelRequest(name=origin.name, pretrained=origin.pretrained)


_OF_THE_MACHINE = ("amp", "max_grad_norm", "accumulate", "grad_checkpointing", "tf32", "compile")
"""What was chosen for what the machine has room for, whatever the recipe."""


def _settings(request: UpdateRequest, saved: SavedModel, same: bool) -> tuple[TrainSettings, dict[str, Any]]:
    """Settings and options: those of before, or of another recipe its own, changed by what was asked for."""
    from avalanche_vlm.studies.living.version_files import former_settings
    from avalanche_vlm.training.settings import TrainSettings

    assert request.recipe is not None
    before = asdict(former_settings(saved))
    if same:
        return TrainSettings(**prepare.changed_by(request, before)), dict(prepare.assigned(request, request.recipe))
    fields, options = prepare.settings(request, request.recipe)
    kept = {name: before[name] for name in (*("epochs", "iterations", "batch_size", "warmup"), *_OF_THE_MACHINE)}
    return TrainSettings(**prepare.changed_by(request, {**fields, **kept})), options


def _earlier(folder: Path, saved: SavedModel) -> Experiment | None:
    """What the first version was asked for, where ``run`` made it."""
    path, run = store.request_of(folder), saved.description.about.get(store.RUN)
    if not path.exists():
        return None
    asked = store.read_experiment(path)
    if run is not None and run != asked.run_id:
        raise InputError(
            f"{path} is of another run ({asked.run_id}) than the model in {saved.folder} ({run}): move it away, or "
            "bring back the one that the model was trained by"
        )
    return asked


def _month(
    request: UpdateRequest,
    recipe: str,
    settings: TrainSettings,
    earlier: Experiment | None,
    saved: SavedModel,
    model: VLM,
) -> VLMBenchmark:
    """What is new, with the resources of before where it brings none."""
    from avalanche_vlm.training import recipes

    protocol = saved.description.protocol or {}
    seed = earlier.seed if earlier else protocol.get("seed")
    asked = Experiment(
        recipe=recipe,
        recipe_options={},
        seed=seed if isinstance(seed, int) else 0,
        stream=_stream(request.stream, earlier.stream if earlier else None, saved),
        model=request.model,
        device=prepare.device_of(request.device),
        train=settings,
        versions={},
    )
    found = prepare.stream_for(asked, model)
    before = saved.label_space
    if asked.stream.data and asked.stream.template is None and before is not None and found.label_space is not None:
        found.label_space = replace(found.label_space, templates=(before.templates[-1],))
    lacking = [name for name in recipes.get(recipe).takes if getattr(found, name) is None]
    if lacking and earlier is not None and earlier.stream.benchmark is not None:
        before_it = earlier.model_copy(update={"stream": earlier.stream.model_copy(update={"held_out": ()})})
        brought = prepare.stream_for(before_it, model)  # data of the user's own bring none, and that benchmark did
        for name in lacking:
            setattr(found, name, getattr(brought, name))
    return found


def _stream(asked: StreamRequest, before: StreamRequest | None, saved: SavedModel) -> StreamRequest:
    """What is asked for, with what holds as before where nothing else is said."""
    space = saved.label_space
    if asked.label_space is not None and space is not None and asked.label_space != space.visible:
        raise InputError(
            f"--label-space {asked.label_space}: which classes compete stays as it was when {saved.folder} was first "
            f"trained, {space.visible}"
        )
    changes: dict[str, Any] = {"label_space": None}
    if before is not None and (before.data is None) == (asked.data is None):
        lasting = [name for name in before.options if asked.benchmark or name in _LASTING or name.endswith("_column")]
        changes["options"] = {**{name: before.options[name] for name in lasting}, **asked.options}
        for name in ("reference", "generator", "seed"):
            if getattr(asked, name) is None:
                changes[name] = getattr(before, name)
    return asked.model_copy(update=changes)
