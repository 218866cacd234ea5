"""A browser without a window on a screen: QtWebEngine, which is Chromium, in a process of its own."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).with_name("window.py")
LACKING = 77
"""Its exit code where Qt cannot be imported."""
WAIT = 120.0
"""Seconds: on a busy machine a browser needs its time."""


class Tab:
    """The one page of a browser, and what it has said on its console and asked for since it was opened last."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self._ready = selectors.DefaultSelector()
        self._ready.register(process.stdout, selectors.EVENT_READ)
        self.said: list[str] = []
        self.asked: list[str] = []

    def _do(self, name: str, *given: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({name: given}) + "\n")
        self._process.stdin.flush()
        assert self._ready.select(WAIT), f"the browser does not answer: {name} {given}"
        told = json.loads(self._process.stdout.readline())
        self.said += told["said"]
        self.asked += told["asked"]
        return told["value"]

    def open(self, address: str) -> None:
        """Load a page, as somebody who types its address."""
        self.said, self.asked = [], []
        assert self._do("open", address), f"{address} cannot be loaded: {self.said}"

    def follow(self, script: str) -> bool:
        """Do what leads to another page, and say whether that could be loaded."""
        return self._do("follow", script)

    def size(self, width: int, height: int = 900) -> None:
        self._do("size", width, height)

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        return self._do("evaluate", script)

    def until(self, script: str) -> Any:
        """The value of an expression as soon as it is one that counts as true."""
        end = time.monotonic() + WAIT
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"never came true: {script}; {self.said}"
            time.sleep(0.02)
        return value

    def picture(self, path: Path) -> np.ndarray:
        """What is seen, ``[height, width, 3]``."""
        assert self._do("picture", str(path))
        return np.asarray(Image.open(path).convert("RGB"))

    def paper(self, path: Path) -> str:
        """The words on the page's prints, which are left in a PDF file."""
        pages = self._do("paper", str(path))
        assert pages, "nothing was printed"
        return "\n".join(pages)


def launched(dark: bool = False) -> Iterator[Tab]:
    """A browser for a fixture; skips where there is none, or one that cannot begin.

    :param dark: whether its user prefers dark pages.
    """
    command = [sys.executable, str(SCRIPT), *["dark"] * dark]
    with tempfile.TemporaryFile("w+") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            tab = Tab(process)
            try:
                tab.size(1280)
            except (BrokenPipeError, json.JSONDecodeError):
                code = process.wait(WAIT)
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["it says nothing"])[-1]
                # Less than nothing is a signal, by which Qt ends where it finds no way to draw.
                assert code == LACKING or code < 0, last
                pytest.skip(
                    f"the browser of PySide6 does not start here ({last}): pip install 'avalanche-vlm[browser]'"
                )
            yield tab
            process.stdin.close()
            process.wait(WAIT)
