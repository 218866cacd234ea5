"""From a request to what runs: experiments with all their defaults, the model, the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.benchmarks.registry import FROM_MODEL, create_benchmark, get_benchmark
from avalanche_vlm.benchmarks.sources.layout import ONE_TASK
from avalanche_vlm.benchmarks.sources.registry import format_of, read_reference, read_stream
from avalanche_vlm.commands.checks import does_not_apply, refuse_no_device, refuse_what_it_has, stream_options
from avalanche_vlm.commands.held_out import set_aside
from avalanche_vlm.commands.requests import CompareRequest, Experiment, StreamRequest, TrainingRequest
from avalanche_vlm.commands.requests.shared import CHECKS, DATA_OPTIONS, FILES, SIZES
from avalanche_vlm.commands.wanted import assigned, lacking, refuse_unread, row_of
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.models import VLM


def experiment(request: TrainingRequest, recipe: str, seed: int) -> Experiment:
    """One experiment of a request, with every default said.

    :param request: what was asked for.
    :param recipe: name of the recipe.
    :param seed: seed of data and training.
    :return: the experiment that was asked for.
    :raises InputError: for a recipe that does not exist or lacks a resource, and for an unusable option.
    """
    from avalanche_vlm._versions import package_versions
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.settings import TrainSettings

    defaults = recipes.get(recipe).settings
    refuse_unread(request)
    if why := lacking(request.stream, recipe):
        raise InputError(why)
    train, options = settings(request, recipe)
    return Experiment(
        recipe=recipe,
        recipe_options={**defaults, **options},
        seed=seed,
        stream=request.stream,
        model=request.model,
        device=request.device if request.elsewhere else device_of(request.device),
        train=TrainSettings(**train),
        versions=package_versions(),
    )


def experiments(request: CompareRequest) -> tuple[list[tuple[str, Experiment]], list[str]]:
    """All experiments of a comparison, seed by seed, each once.

    :param request: what was asked for.
    :return: the experiments, each behind the name of its row: the recipe, and which values of a sweep it has; and a
        sentence for each recipe that is left out: where the user named none, those that lack a resource.
    :raises InputError: for a recipe that does not exist or that the user named though it lacks a resource, and for an
        unusable option.
    """
    from avalanche_vlm.training.recipes import refuse_unpublished

    left_out = {} if request.chosen else {name: lacking(request.stream, name) for name in request.recipes}
    names = [name for name in request.recipes if not left_out.get(name)]
    if request.train.published and request.stream.benchmark:
        refuse_unpublished(names, request.stream.benchmark)
    several = [
        (row_of(one, of), experiment(one, of, s)) for s in request.seeds for of in names for one in request.each()
    ]
    once: dict[str, tuple[str, Experiment]] = {}
    for row, asked in several:
        once.setdefault(asked.run_id, (row, asked))
    return list(once.values()), [why for why in left_out.values() if why]


def settings(request: TrainingRequest, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and recipe options: those of benchmark and recipe, overridden by what was asked for.

    :param request: what was asked for.
    :param recipe: name of the recipe.
    :return: fields of :class:`~avalanche_vlm.training.settings.TrainSettings`, and options of the recipe that differ
        from its own defaults.
    :raises InputError: for an option that no recipe knows, or a value that it does not take.
    """
    from avalanche_vlm.training.recipes import get, published_for, settings_for

    if request.train.published and request.stream.benchmark is None:
        raise InputError("--published takes settings that were published for a benchmark, and --data is none")
    if request.train.published and request.stream.benchmark and get(recipe).trains:
        train, options, _ = published_for(recipe, request.stream.benchmark)
    else:
        train, options = settings_for(recipe, request.stream.benchmark or "data", request.model.name)
    return changed_by(request, train), {**options, **dict(assigned(request, recipe))}


def changed_by(request: TrainingRequest, train: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings, changed by those that were asked for.

    :param request: what was asked for.
    :param train: the settings before.
    """
    given = request.train.given()
    found = {**train, **given}
    if "epochs" in given and "iterations" not in given:
        found["iterations"] = None  # so many passes, whatever was published or trained before
    if "lr" in given and "rates" not in given:
        found["rates"] = None
    return found


def knows_nothing_of(request: TrainingRequest) -> str | None:
    """What to expect of the tiny model on a stream that is not the picturebook's: known before anything is read.

    :param request: what was asked for.
    :return: the sentence; None for another model, and for weights that the user brings.
    """
    stream, model = request.stream, request.model
    if model.name != "tiny" or model.pretrained is not None or (stream.benchmark or "").startswith("picturebook"):
        return None
    return (
        "the tiny model knows the pictures and words of the picturebook alone: expect it to start at chance on "
        f"{stream.data or stream.benchmark}, with no zero-shot ability to keep; a model that knows such data is for "
        "example --model ViT-B-16 --pretrained openai"
    )


def quick_sizes(request: TrainingRequest) -> str | None:
    """In which respects the stream is smaller than the benchmark is of itself, so that a first look is short.

    :param request: what was asked for.
    :return: the sentence; None where nothing is.
    """
    name, given = request.stream.benchmark, request.stream.options
    if name is None:
        return None
    declared = get_benchmark(name)
    smaller = [option for option, value in declared.quick.items() if given.get(option) == value]
    if not smaller:
        return None
    own = declared.options()
    here = ", ".join(f"{option} {_shown(given[option])}" for option in smaller)
    there = ", ".join(_shown(own[option]) for option in smaller if option in own)
    return f"{name} in the sizes of a first look: {here} (--full takes {there})"


def device_of(asked: str) -> str:
    """The device to run on.

    :param asked: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is CUDA where there is one.
    :return: the device's name as torch has it.
    :raises InputError: if it is neither CPU nor CUDA, or CUDA is asked for and missing.
    """
    import torch

    refuse_no_device(asked)
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device that torch can use")
    return asked


def opened(asked: Experiment, trust: bool = False, shard: bool = False) -> tuple[VLM, VLMBenchmark]:
    """The model of an experiment, fresh, and its stream, read as the model reads.

    :param asked: what is run; its seed decides random weights, and its data seed the data.
    :param trust: whether code that comes with the model may run, though the experiment does not say so.
    :param shard: whether each of several processes is to keep a part of it, so that no device has to hold the whole.
    :return: the model on its device, or on the CPU until it is in parts, and the benchmark.
    :raises InputError: for a model or weights that cannot be had, for unusable data, and for an option that would go
        unheeded with it.
    """
    from avalanche_vlm.models.heads.text import TextHead

    model = fresh_model(asked.model_copy(update={"device": "cpu"}) if shard else asked, trust)
    benchmark = stream_for(asked, model)
    if (space := benchmark.label_space) and (alike := TextHead(space, model.tokenizer).told_apart(space)):
        benchmark.data.notes.append(alike)
    return model, benchmark


def fresh_model(asked: Experiment, trust: bool = False) -> VLM:
    """The model of an experiment, as nothing has trained it.

    :param asked: what is run; its seed decides random weights.
    :param trust: whether code that comes with the model may run, though the experiment does not say so.
    :return: the model on its device.
    :raises InputError: for a model or weights that cannot be had.
    """
    import torch

    from avalanche_vlm.models import create_vlm

    torch.manual_seed(asked.seed)
    return create_vlm(
        asked.model.name,
        asked.model.pretrained,
        device=device_of(asked.device),
        precision=asked.model.precision,
        image_size=asked.model.image_size,
        trust_remote_code=asked.model.trust_remote_code or trust,
    )


def protocol(
    asked: Experiment, model: VLM, benchmark: VLMBenchmark, conditions: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The protocol that an experiment would have if it were run now.

    :param asked: what would be run.
    :param model: its model, as :func:`opened` gives it.
    :param benchmark: its stream, as :func:`opened` gives it.
    :param conditions: what :func:`~avalanche_vlm.studies.conditions.conditions_of` says of both, where that is known.
    :return: plain JSON types, as ``result.json`` would hold them.
    """
    from avalanche_vlm.studies.outcome import protocol_of

    return protocol_of(
        benchmark,
        model,
        asked.recipe,
        asked.recipe_options,
        asked.train,
        seed=asked.seed,
        task_id=False,
        device=asked.device,
        conditions=conditions,
    )


def stream_for(asked: Experiment, model: VLM) -> VLMBenchmark:
    """The stream of an experiment, read as a model reads.

    :param asked: what is run; its data seed decides the data.
    :param model: the model whose transforms and tokenizer are used.
    :return: the benchmark that was read.
    :raises InputError: for unusable data, and for an option that would go unheeded with it.
    """
    stream = asked.stream
    common: dict[str, Any] = {"seed": asked.data_seed}
    if stream.label_space:
        common["label_space"] = stream.label_space
    if stream.data:
        found = _own_data(asked, stream.data, common, model)
    else:
        assert stream.benchmark is not None
        found = _registered(stream, stream.benchmark, common, model)
    if stream.held_out:
        set_aside(stream, found, model)
    return _with_resources(found, asked, model)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _registered(stream: StreamRequest, name: str, common: dict[str, Any], model: VLM) -> VLMBenchmark:
    refuse_what_it_has(stream, name)
    declared = get_benchmark(name)
    _refuse_given(stream, name, "name")
    if stream.on_error != "raise" and not declared.takes("on_error"):
        raise does_not_apply("on_error", f"{name}, only to --data and --root")
    given = {**common, **stream_options(stream, declared)}
    flagged = (*SIZES, *FILES, *DATA_OPTIONS)
    flags = [option for option in given if option in flagged or option not in stream.options]
    if not declared.takes("seed"):
        if stream.seed is not None:
            raise does_not_apply("data_seed", f"{name}, which draws nothing")
        del given["seed"]  # data that nothing is drawn of: the seed is the training's alone
        flags.remove("seed")
    for option in flags:
        if not declared.takes(option):
            raise does_not_apply(option, name)
    benchmark = create_benchmark(name, model=model, **given)
    if "seed" in given and "split_seed" not in benchmark.protocol:
        benchmark.protocol.setdefault("seed", given["seed"])  # a benchmark from outside may say nothing of it
    return benchmark


def _own_data(asked: Experiment, data: str, common: dict[str, Any], model: VLM) -> VLMBenchmark:
    from avalanche_vlm.benchmarks.label_space import PromptTemplates

    stream = asked.stream
    if not Path(data).exists():
        raise InputError(f"--data: there is no file or folder at {data}")
    _refuse_given(stream, "--data", "path")
    for option in stream.options:
        if option in (*SIZES, *FILES):
            raise does_not_apply(option, "--data")
    if stream.order:
        common["order"] = list(stream.order)
    if stream.template:
        common["templates"] = PromptTemplates("given", stream.template)
    if not (found := format_of(Path(data))).takes("seed"):
        if stream.seed is not None:
            raise does_not_apply("data_seed", f"a {found.name}, which draws nothing")
        del common["seed"]  # nothing is drawn to read it: the seed is the training's alone
    for option in stream.options:
        if option in DATA_OPTIONS and not found.takes(option):
            raise does_not_apply(option, f"{data}, a {found.name}")
    if found.takes("on_error") or stream.on_error != "raise":
        common["on_error"] = stream.on_error
    benchmark = read_stream(data, model=model, **{**common, **stream.options})
    _refuse_undrawn(stream, data, benchmark.protocol)
    if benchmark.task_names == (ONE_TASK,):  # of several months each is to have a name of its own
        path = Path(data).resolve()
        benchmark.task_names = ((path.name if path.is_dir() else path.stem) or ONE_TASK,)
    return benchmark


def _refuse_undrawn(stream: StreamRequest, data: str, protocol: Mapping[str, Any]) -> None:
    """Refuse what is said of a split of data that say themselves what is tested."""
    facts = ("split_seed", "class_order_seed")
    if stream.seed is not None and facts[0] in protocol and all(protocol.get(fact) is None for fact in facts):
        raise InputError(f"--data-seed does not apply to {data}: nothing is drawn, for it says itself what is tested")
    if "test_fraction" in stream.options and protocol.get("test_fraction", 0) is None:
        raise InputError(f"--option test_fraction does not apply to {data}, which says itself what is tested")


def _with_resources(benchmark: VLMBenchmark, asked: Experiment, model: VLM) -> VLMBenchmark:
    """The stream with the reference pairs and the generator that were given for it."""
    stream = asked.stream
    if stream.reference:
        from avalanche_vlm.benchmarks.context import note_cut_captions

        checks = {option: stream.options[option] for option in CHECKS if option in stream.options}
        benchmark.reference = read_reference(stream.reference, model=model, on_error=stream.on_error, **checks)
        benchmark.data.skipped += [f"reference: {sentence}" for sentence in benchmark.reference.skipped]
        note_cut_captions(benchmark, model.tokenizer)
    if stream.generator:
        from avalanche_vlm.memory.generators import DiffusersGenerator

        size = model.transforms.eval.size
        benchmark.generator = DiffusersGenerator(stream.generator, size=size, device=device_of(asked.device))
    return benchmark


def _refuse_given(stream: StreamRequest, where: str, subject: str) -> None:
    """Refuse options that are none: what the command itself hands over."""
    for option in stream.options:
        if option in (*FROM_MODEL, "model", "called", "factory", subject):
            raise InputError(f"--option {option} does not apply to {where}: what it stands for is given already")
