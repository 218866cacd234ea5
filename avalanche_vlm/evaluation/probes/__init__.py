"""What training does to a model, seen while it happens: one probe for each of the survey's three failure modes.

The probes are Avalanche plugin metrics for any strategy; the figures that they report are pure functions in modules of
their own, which import torch alone. A probe is imported when it is asked for, and Avalanche with it.
"""

from importlib import import_module
from typing import Any

_HOMES = {"DriftProbe": "drift", "ErosionProbe": "erosion", "InterferenceProbe": "interference"}

__all__ = ["DriftProbe", "ErosionProbe", "InterferenceProbe"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
