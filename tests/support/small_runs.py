"""Experiments that take a second, through the command line and in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avalanche_vlm import cli
from avalanche_vlm.commands.requests.experiment import run_id_of
from avalanche_vlm.commands.requests.stored import NAMES, from_configuration
from avalanche_vlm.storage.documents import seal_of
from avalanche_vlm.storage.yaml_files import plain_types, read_yaml_file, yaml_text

SIZES = "--n-train 32 --n-test 12 --n-held-out 24 --n-reference 24"
SMALL = f"{SIZES} --epochs 1 --order sketches,night --quiet".split()


def run(*arguments: str) -> int:
    """A command on two small tasks: its exit code."""
    return cli.main([*arguments, *SMALL])


def read(path: Path) -> Any:
    """What a JSON file holds, or a request."""
    if path.name == "request.yaml":
        return from_configuration(plain_types(read_yaml_file(path)), path)
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
    if path.stem == "request":
        asked = {key: value for key, value in content.items() if key not in ("format", "run", "sha256")}
        content["run"] = run_id_of(asked)
    if path.suffix != ".yaml":
        path.write_text(sealed(content))
        return
    content["sha256"] = seal_of({key: value for key, value in content.items() if key != "sha256"})
    told = {"command": "run"}
    for place, name in NAMES.items():
        value = flat_part(content, place)
        if name == "max_grad_norm" and value is None:
            value = "none"
        if value not in (None, [], {}):
            told[name.replace("_", "-")] = value
    kept = {name: content[name] for name in ("format", "run", "versions", "sha256")}
    path.write_text(yaml_text({**told, "kept": kept}))


def flat_part(content: dict[str, Any], place: str) -> Any:
    """A value of a request by its dotted name."""
    outer, _, inner = place.partition(".")
    return content[outer][inner] if inner else content[outer]


def as_earlier(folder: Path) -> Path:
    """The request of a run as earlier versions wrote it, in the place of today's."""
    path = folder / "request.json"
    path.write_text(sealed(read(folder / "request.yaml")))
    (folder / "request.yaml").unlink()
    return path
