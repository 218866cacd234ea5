"""Parts of requests that several commands share. None is changed once it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from typing_extensions import Self

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.benchmarks.label_space import TrainClasses, TrainTemplates, Visible
from avalanche_vlm.models.precision import WeightPrecision
from avalanche_vlm.training.settings import CHECKPOINT_MINUTES, EvalTasks


def within(name: str) -> Any:
    """The range of a declared number, as a field of a stored request has it.

    :param name: name of its declaration in :data:`~avalanche_vlm._numbers.NUMBERS`.
    """
    number = NUMBERS[name]
    bounds: dict[str, Any] = {
        "gt" if "(" in number.open else "ge": number.least,
        "lt" if ")" in number.open else "le": number.most,
    }
    return Field(**bounds) if number.whole else Field(**bounds, allow_inf_nan=False)


TorchSeed = Annotated[int, within("seed")]
"""A seed that torch takes."""


class Part(BaseModel):
    """A part of a request: immutable, and with no other fields than those it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamRequest(Part):
    """Which stream of tasks.

    :param benchmark: name of a benchmark; None where ``data`` is given.
    :param data: path of the user's own data.
    :param on_error: what is done with samples of ``data`` that cannot be read.
    :param label_space: which classes compete at prediction; None for the benchmark's own default.
    :param order: names of the tasks in the order of the stream; None for the stream's own order.
    :param template: prompts with ``{}`` for the class name, for ``data``; None for the default ones.
    :param reference: path of a table of reference pairs, for ``data``.
    :param generator: name or path of a text-to-image model, for ``data``.
    :param seed: seed of what the stream draws: its pictures, or the split of ``data``; None for that of the training.
    :param held_out: names of published data sets, and paths of folders and tables, that are measured and not trained.
    :param held_out_root: folder that holds the published ones of these; None where there is none.
    :param options: further options of the benchmark, such as its sizes.
    """

    benchmark: str | None = "picturebook"
    data: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    label_space: Visible | None = None
    order: tuple[str, ...] | None = None
    template: tuple[str, ...] | None = None
    reference: str | None = None
    generator: str | None = None
    seed: TorchSeed | None = None
    held_out: tuple[str, ...] = ()
    held_out_root: str | None = None
    options: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _names_a_stream(self) -> Self:
        if self.benchmark is None and self.data is None:
            raise ValueError("neither a benchmark nor data is named")
        return self


class ModelRequest(Part):
    """Which model.

    :param name: ``tiny``, or a name of open_clip's.
    :param pretrained: open_clip's tag or a checkpoint file; None for the model's own default.
    :param precision: the numbers that its weights are kept in.
    :param image_size: side of its input in pixels; None for the model's own.
    :param trust_remote_code: whether code that comes with it may run. The user's word for this one command: it is not
        stored, and a stored request that has it is refused, since a folder comes from anyone.
    """

    name: str = "tiny"
    pretrained: str | None = None
    precision: WeightPrecision = "fp32"
    image_size: Annotated[int, within("image_size")] | None = None
    trust_remote_code: Annotated[bool, Field(exclude=True)] = False


class TrainChanges(Part):
    """Training settings that differ from what benchmark and recipe would get, named as in
    :class:`~avalanche_vlm.training.settings.TrainSettings`; None where nothing was said.

    :param published: whether settings that were published for recipe and benchmark are what the others change.
    :param lr: peak learning rate.
    :param epochs: passes over each task.
    :param iterations: iterations of each task, in the place of whole passes.
    :param batch_size: new samples per iteration.
    :param warmup: iterations of warm-up.
    :param weight_decay: weight decay of the optimizer.
    :param label_smoothing: share of each target that is spread over the classes that compete.
    :param train_classes: which classes compete in training.
    :param train_templates: which prompts stand for a class in training.
    :param negatives: classes that are drawn to stand for those that compete in a step.
    :param max_grad_norm: norm that gradients are clipped to; ``"none"`` clips nothing.
    :param rates: peak learning rates of tasks by their names.
    :param amp: precision of automatic mixed precision.
    :param accumulate: batches that one step takes together.
    :param grad_checkpointing: whether the towers keep no activations.
    :param tf32: whether factors of matrix products are rounded on CUDA devices.
    :param compile: whether torch compiles the blocks of the towers.
    :param num_workers: processes that load data.
    :param eval_tasks: tasks that are evaluated after an experience.
    :param eval_every: experiences from one evaluation to the next.
    """

    published: bool = False
    lr: Annotated[float, within("lr")] | None = None
    epochs: Annotated[int, within("epochs")] | None = None
    iterations: Annotated[int, within("iterations")] | None = None
    batch_size: Annotated[int, within("batch_size")] | None = None
    warmup: Annotated[int, within("warmup")] | None = None
    weight_decay: Annotated[float, within("weight_decay")] | None = None
    label_smoothing: Annotated[float, within("label_smoothing")] | None = None
    train_classes: TrainClasses | None = None
    train_templates: TrainTemplates | None = None
    negatives: Annotated[int, within("negatives")] | None = None
    max_grad_norm: Annotated[float, within("max_grad_norm")] | Literal["none"] | None = None
    rates: dict[str, Annotated[float, within("lr")]] | None = None
    amp: Literal["bf16", "fp16"] | None = None
    accumulate: Annotated[int, within("accumulate")] | None = None
    grad_checkpointing: bool | None = None
    tf32: bool | None = None
    compile: bool | None = None
    num_workers: Annotated[int, within("num_workers")] | None = None
    eval_tasks: EvalTasks | None = None
    eval_every: Annotated[int, within("eval_every")] | None = None

    def given(self) -> dict[str, Any]:
        """What was said, as :class:`~avalanche_vlm.training.settings.TrainSettings` takes it."""
        found = self.model_dump(exclude_none=True, exclude={"published"})
        if found.get("max_grad_norm") == "none":
            found["max_grad_norm"] = None
        return found


class Assignment(Part):
    """An option that a recipe is given, as ``[RECIPE.]OPTION=VALUE``.

    :param text: the words as they were written, for messages.
    :param recipe: name of the recipe that it is for; None for every recipe that has such an option.
    :param option: the option's name.
    :param value: the value as it was written.
    """

    text: str
    recipe: str | None
    option: str
    value: str


class Request(Part):
    """What all commands that work on a folder are asked.

    :param out: the folder that the command works on.
    :param quiet: whether progress bars and remarks are left out.
    :param threads: CPU threads of torch; None for torch's default.
    """

    out: Path
    quiet: bool = False
    threads: Annotated[int, within("threads")] | None = None


class TrainingRequest(Request):
    """What all commands that train are asked.

    :param stream: the stream of tasks.
    :param model: the model that is trained.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    :param train: training settings that differ from the defaults.
    :param assignments: options that recipes are given.
    :param checkpoint_minutes: minutes from one checkpoint within an experience to the next; None for checkpoints at the
        experiences' ends alone.
    """

    stream: StreamRequest = StreamRequest()
    model: ModelRequest = ModelRequest()
    device: str = "auto"
    train: TrainChanges = TrainChanges()
    assignments: tuple[Assignment, ...] = ()
    checkpoint_minutes: Annotated[float, within("checkpoint_minutes")] | None = CHECKPOINT_MINUTES

    @property
    def elsewhere(self) -> bool:
        """Whether it trains on other machines alone, of whose devices this one knows nothing."""
        return False

    def recipe_names(self) -> tuple[str, ...]:
        """The recipes that the command is about, each once."""
        raise NotImplementedError

    def each(self) -> tuple[Self, ...]:
        """The request, or of a sweep one for each combination of its values."""
        return (self,)
