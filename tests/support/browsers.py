"""A browser without a window, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT = 120_000
"""Milliseconds: on a busy machine a browser needs its time."""


def launched() -> Iterator[Any]:
    """A browser for a fixture; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright, which drives a browser, is not installed"
    )
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), None) or (own if Path(own).exists() else None)
        if found is None:
            pytest.skip("no Chromium or Chrome is installed")
        running = driver.chromium.launch(executable_path=found, timeout=WAIT)
        yield running
        running.close()
