"""Packages that load a name when it is first used.

A package lists what it offers as ordinary imports under ``if TYPE_CHECKING:``, where editors and type checkers read it,
and hands the rest to :func:`attach`::

    if TYPE_CHECKING:
        from avalanche_vlm.memory.exemplars import ExemplarMemory
    else:
        __getattr__, __dir__ = attach(__name__, __file__)

    __all__ = ["ExemplarMemory"]

No name of the package may be that of one of its modules, unless it is that module: importing the module would put it in
the name's place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package whose names load on first use.

    :param package: the package's ``__name__``.
    :param file: the package's ``__file__``, whose ``if TYPE_CHECKING:`` block says where each name lives.
    :return: the two functions, to be assigned in the package.
    """
    homes: dict[str, tuple[str, str]] = {}

    def look_up(name: str) -> Any:
        # Python itself asks for names such as __path__: nothing is read for those.
        if not homes and not name.startswith("__"):
            homes.update(declared(Path(file).read_text(encoding="utf-8")))
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        found = import_module(f"{module}.{original}") if module == package else _member(module, original)
        setattr(sys.modules[package], name, found)  # the next look-up is an ordinary one
        return found

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return look_up, names


def declared(source: str) -> dict[str, tuple[str, str]]:
    """Where the names of a package live, as its ``if TYPE_CHECKING:`` block imports them.

    :param source: the text of an ``__init__.py``.
    :return: module and name there, for each name that the package offers.

    >>> declared("if TYPE_CHECKING:\\n    from torch.nn import Module as Layer")
    {'Layer': ('torch.nn', 'Module')}
    """
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If) and _is_type_checking(node.test)]
    return {
        alias.asname or alias.name: (statement.module or "", alias.name)
        for block in blocks
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _member(module: str, name: str) -> Any:
    """What ``from module import name`` gives: an attribute, or a module of that package."""
    return getattr(__import__(module, fromlist=[name]), name)
