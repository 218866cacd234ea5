"""Experiments that take a second, through the command line and in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avalanche_vlm import cli

SIZES = "--n-train 32 --n-test 12 --n-held-out 24 --n-reference 24"
SMALL = f"{SIZES} --epochs 1 --order sketches,night --quiet".split()


def run(*arguments: str) -> int:
    """A command on two small tasks: its exit code."""
    return cli.main([*arguments, *SMALL])


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())
