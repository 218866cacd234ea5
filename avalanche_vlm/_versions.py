"""Versions of what decides the numbers."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version


def package_versions(*further: str) -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, by name.

    :param further: packages that decide them here, and not always.
    """
    names = (
        "avalanche-vlm",
        "avalanche-lib",
        "torch",
        "torchvision",
        "open_clip_torch",
        "timm",
        "numpy",
        "scikit-learn",
        "pillow",
    )
    return {"python": platform.python_version(), **{name: _version(name) for name in (*names, *further)}}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"
