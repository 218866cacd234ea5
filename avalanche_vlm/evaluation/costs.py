"""What an experiment costs, declared: figures of the result, and the lines of the cost ledger."""

from __future__ import annotations

from functools import partial

from avalanche_vlm.evaluation.declaration import EVERYWHERE, Figure, ResultEntry, Shown, Unit, found_at


def _cost(name: str, entry: ResultEntry) -> object:
    return found_at(entry, "result", "costs", name)


def _line(name: str, title: str, unit: Unit, better: bool | None, description: str) -> Figure:
    """A line of the ledger that no table of results has."""
    places: frozenset[Shown] = frozenset({"ledger"})
    return Figure(name, title, unit, better, description, lambda entry: found_at(entry, "ledger", name), places)


FIGURES = (
    Figure(
        "stored_bytes",
        "Stored",
        "bytes",
        False,
        "What the recipe keeps between tasks, in memory and on disk: the most at any task's end.",
        partial(_cost, "stored_bytes"),
    ),
    _line("stored_ram_bytes", "Stored in memory", "bytes", False, "What the recipe keeps between tasks in memory."),
    _line("stored_disk_bytes", "Stored on disk", "bytes", False, "What the recipe keeps between tasks on disk."),
    _line(
        "raw_user_data_kept",
        "Keeps raw user data",
        "flag",
        False,
        "Whether samples of the user's are kept; unknown where a plugin does not declare what it keeps.",
    ),
    _line("undeclared_plugins", "Plugins that declare nothing", "words", None, "Of which nobody knows what they keep."),
    _line(
        "reference_pairs_needed",
        "Needs reference pairs",
        "flag",
        False,
        "Whether the training used image-text pairs that are not of the stream, a gate's reference among them.",
    ),
    _line("generator_needed", "Needs a generator", "flag", False, "Whether the training used a generator of pictures."),
    Figure(
        "trainable_parameters",
        "Trainable",
        "count",
        False,
        "Parameters that the optimizer holds: the most at any task's end.",
        partial(_cost, "trainable_parameters"),
        EVERYWHERE | {"ledger"},
    ),
    _line("added_parameters", "Added parameters", "count", False, "Parameters that the trained model has more."),
    _line("train_seconds", "Training, seconds", "seconds", False, "Seconds that training took, evaluation left out."),
    _line("peak_memory_bytes", "Peak memory", "bytes", False, "The most memory in use beyond what was in use before."),
    _line(
        "extra_forward_passes_per_sample",
        "Extra forward passes per sample",
        "ratio",
        False,
        "Images through the image tower beside the one of plain fine-tuning, per sample and epoch.",
    ),
    _line(
        "extra_backward_passes_per_sample",
        "Extra backward passes per sample",
        "ratio",
        False,
        "Images through the image tower with gradients beside the one of plain fine-tuning, per sample and epoch.",
    ),
    _line(
        "training_flops_per_sample",
        "Training, floating-point operations per sample",
        "flops",
        False,
        "Floating-point operations of the second task's training, per sample and epoch.",
    ),
    _line(
        "inference_flops_per_sample",
        "Inference, floating-point operations per sample",
        "flops",
        False,
        "Floating-point operations of a prediction, what is encoded once for all left out.",
    ),
    _line("artifacts", "Files to version", "words", None, "What has a version of its own in production."),
    _line(
        "task_id_needed",
        "Needs the task id when used",
        "flag",
        False,
        "Whether a prediction asks for the sample's task.",
    ),
    _line("reversible", "Reversible", "flag", True, "Whether the pretrained weights are still there unchanged."),
    Figure(
        "seconds",
        "Seconds",
        "seconds",
        False,
        "Seconds of the whole run: making the stream, training and evaluation.",
        lambda entry: found_at(entry, "timing", "total_seconds"),
    ),
)
