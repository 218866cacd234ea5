"""What an evaluator and its metrics keep, Avalanche's own metrics included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from avalanche.training.plugins import EvaluationPlugin
from matplotlib.figure import Figure
from PIL.Image import Image

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import StateDict, is_function, pack, part_of
from avalanche_vlm.memory.state import Stateful, undeclared
from avalanche_vlm.memory.unpacking import unpack

_HOME = "avalanche.evaluation"
_KNOWN = frozenset(
    f"{_HOME}.metrics.{module}"
    for module in (
        *("acc_matrix", "accuracy", "class_accuracy", "cumulative_accuracies", "forgetting_bwt", "forward_transfer"),
        *("loss", "mean", "topk_acc"),
    )
)
"""Avalanche's metrics that keep numbers alone. What others keep (clocks, threads, pictures, weights) no file can."""


def unknown_metrics(evaluator: Any) -> list[str]:
    """Classes of metrics of which nobody knows what they keep.

    :param evaluator: the strategy's evaluator.
    """
    found = map(_unknown, getattr(evaluator, "metrics", []))
    return [name for name in found if name is not None]


def evaluator_state(evaluator: Any) -> StateDict:
    """Every value that was published but for pictures, which come again, and what the metrics keep that are known.

    :param evaluator: the strategy's evaluator; one that is not Avalanche's has no state but that of its metrics.
    :return: names to tensors and JSON values.
    :raises InputError: if a metric keeps, or has published, what no file can hold.
    """
    state: StateDict = {}
    if isinstance(evaluator, EvaluationPlugin):
        for name, values in (
            ("all", {n: of for n, of in evaluator.all_metric_results.items() if not any(map(_is_picture, of[1][-1:]))}),
            ("last", {n: of for n, of in evaluator.last_metric_results.items() if not _is_picture(of)}),
            ("active", evaluator.active),
        ):
            state |= _packed(name, values, "a metric has published")
    for place, metric in _places(evaluator):
        if isinstance(metric, Stateful):
            state |= {f"{place}.{name}": entry for name, entry in metric.state_dict().items()}
        elif not _unknown(metric):
            state |= _packed(place, _attributes(metric), f"{type(metric).__name__} keeps")
    return state


def load_evaluator_state(evaluator: Any, state: Mapping[str, Any]) -> None:
    """Go on from what :func:`evaluator_state` gave.

    :param evaluator: an evaluator that was made in the same way; metrics that start without a state may have come, and
        any may have gone.
    :param state: entries by name, as that function gave them, or as that of an earlier version did.
    :raises InputError: if they do not fit.
    """
    owner = type(evaluator).__name__
    if isinstance(evaluator, EvaluationPlugin):
        found = unpack("all", None, state, owner)
        evaluator.all_metric_results.clear()
        evaluator.all_metric_results.update(found)
        evaluator.last_metric_results = unpack("last", None, state, owner)
        evaluator.active = unpack("active", True, state, owner)
    numbered = any(name.startswith("metrics.") and name.split(".")[1].isdecimal() for name in state)
    for number, (place, metric) in enumerate(_places(evaluator)):
        if numbered:  # by an earlier version, which counted them
            place = f"metrics.{number}"
        if isinstance(metric, Stateful):
            metric.load_state_dict(part_of(state, place))
        elif not _unknown(metric):
            _take(metric, unpack(place, None, state, type(metric).__name__))


def _places(evaluator: Any) -> Iterator[tuple[str, Any]]:
    """Where the state of each metric is: under its class and its number among those of this class, so that it is found
    again whichever others there are."""
    met: Counter[str] = Counter()
    for metric in getattr(evaluator, "metrics", []):
        kind = type(metric).__name__
        yield f"metrics.{kind}.{met[kind]}", metric
        met[kind] += 1


def _unknown(metric: Any) -> str | None:
    if isinstance(metric, Stateful):
        return next(iter(undeclared([metric])), None)
    return None if type(metric).__module__ in _KNOWN else type(metric).__name__


def _packed(name: str, value: Any, whose: str) -> StateDict:
    try:
        return pack(name, value)
    except TypeError as error:
        raise InputError(f"what {whose} cannot be part of a checkpoint: {error}") from error


def _attributes(value: Any) -> Any:
    """A metric's attributes, and those of the metrics that it has, as a mapping; other values as they are."""
    if _is_theirs(value):
        return {name: _attributes(entry) for name, entry in vars(value).items() if not is_function(entry)}
    if isinstance(value, Mapping):
        return {key: _attributes(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_attributes, value))
    return value


def _take(metric: Any, found: Mapping[str, Any]) -> None:
    for name, entry in found.items():
        setattr(metric, name, _taken(getattr(metric, name, None), entry))


def _taken(now: Any, found: Any) -> Any:
    """What was found, in the kind of thing that is there now: metrics are changed in place, and default dictionaries
    make those that are not there yet."""
    if _is_theirs(now):
        _take(now, found)
        return now
    if isinstance(now, dict):
        make = getattr(now, "default_factory", None)
        entries = {key: _taken(now[key] if key in now else make() if make else None, of) for key, of in found.items()}
        now.clear()
        now.update(entries)
        return now
    if type(now) in (list, tuple) and len(now) == len(found):
        return type(now)(map(_taken, now, found))
    return found


def _is_picture(value: Any) -> bool:
    return isinstance(value, AlternativeValues | TensorImage | Image | Figure)


def _is_theirs(value: Any) -> bool:
    return type(value).__module__.startswith(_HOME)
