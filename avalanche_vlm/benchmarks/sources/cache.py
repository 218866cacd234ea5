"""The folder of what is kept between runs, and can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE = "AVALANCHE_VLM_CACHE"
"""The environment variable that names the cache folder."""


def cache_folder() -> Path:
    """The folder that ``AVALANCHE_VLM_CACHE`` names, or ``avalanche_vlm`` in the user's cache
    (``XDG_CACHE_HOME`` where it is an absolute path, ``LOCALAPPDATA`` on Windows, ``~/.cache``)."""
    if given := os.environ.get(CACHE):
        return Path(given)
    general = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", ""))
    return (general if general.is_absolute() else Path.home() / ".cache") / "avalanche_vlm"
