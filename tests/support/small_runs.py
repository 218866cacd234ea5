"""Experiments that take a second, through the command line and in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avalanche_vlm import cli
from avalanche_vlm.commands.requests.experiment import run_id_of
from avalanche_vlm.storage.documents import seal_of

SIZES = "--n-train 32 --n-test 12 --n-held-out 24 --n-reference 24"
SMALL = f"{SIZES} --epochs 1 --order sketches,night --quiet".split()


def run(*arguments: str) -> int:
    """A command on two small tasks: its exit code."""
    return cli.main([*arguments, *SMALL])


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


def sealed(content: dict[str, Any]) -> str:
    """A file with this content and a digest that is right, as one who knows the digest would forge it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return json.dumps({**rest, "sha256": seal_of(rest)}, indent=1) + "\n"


def forge(path: Path, **changed: Any) -> None:
    """Change values of a sealed file by their keys, with a digest that is right; None takes a key away. A request has
    what tells it from others, too."""
    gone = [key for key, value in changed.items() if value is None]
    content = {key: value for key, value in {**read(path), **changed}.items() if key not in gone}
    if path.name == "request.json":
        asked = {key: value for key, value in content.items() if key not in ("format", "run", "sha256")}
        content["run"] = run_id_of(asked)
    path.write_text(sealed(content))
