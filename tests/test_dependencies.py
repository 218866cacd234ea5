"""What the package imports is what it says that it needs."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def plain(requirement: str) -> str:
    """The name of a distribution as indexes compare it, of a line that requires it."""
    name = re.match(r"[\w.-]+", requirement.strip())
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared() -> tuple[frozenset[str], frozenset[str]]:
    """Distributions that an installation brings, and those of its extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [config["options"]["install_requires"], "\n".join(config["options.extras_require"].values())]
    always, extras = (frozenset(plain(line) for line in text.split("\n") if re.match(r"\s*\w", line)) for text in lines)
    return always, extras


@cache
def brought(names: frozenset[str]) -> set[str]:
    """What can be imported of distributions; one that is not installed is taken to bring what it is called."""
    found = {name.replace("-", "_") for name in names}
    for name in names:
        with suppress(PackageNotFoundError):
            known = distribution(name)
            listed = (known.read_text("top_level.txt") or "").split()
            found |= set(listed) or {file.parts[0].removesuffix(".py") for file in known.files or ()}
    return found


def imported() -> Iterator[tuple[str, str, bool]]:
    """Module, top-level name that it imports, and whether only type checkers or those who miss nothing see that."""
    for path in (ROOT / "avalanche_vlm").rglob("*.py"):
        tree = ast.parse(path.read_text())
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            above, guarded = node, False
            while above in parents:
                above = parents[above]
                guarded |= isinstance(above, ast.Try | ast.If)
            yield from ((str(path.relative_to(ROOT)), name.partition(".")[0], guarded) for name in names)


@pytest.mark.slow
def test_every_import_is_declared():
    always, extras = declared()
    missing = []
    for where, name, guarded in imported():
        if name == "avalanche_vlm" or name in sys.stdlib_module_names:
            continue
        if name not in brought(always) and not (guarded and name in brought(extras)):
            missing.append(f"{where} imports {name}")
    assert not missing, missing
