"""Versions of what decides the numbers."""

from __future__ import annotations

import platform
from importlib.metadata import version


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, by name."""
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
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return found
