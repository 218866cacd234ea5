"""The API reference: a page per package, made from its sources at every build of the site.

A page has what the package offers, then its modules with what is public in them. Names are documented where they are
defined, and are found as well by the shorter path under which a package offers them.
"""

from __future__ import annotations

import ast
import builtins
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from avalanche_vlm._lazy import declared

PACKAGE = Path(__file__).resolve().parents[1] / "avalanche_vlm"
RANGED = re.compile(r"~?(?:typing\.)?Annotated\[")
OBJECT = re.compile(r"(?<==)( ?)<(?:[^<>]|<[^<>]*>)*>")
FORWARD = re.compile(r"TypeAliasForwardRef\('([\w.]+)'\)")
IN_SHORT = {
    "ArrayLike": "numpy.typing.ArrayLike",
    "Bars": "rich.progress.Progress",
    "CLIP": "open_clip.model.CLIP",
    "Console": "rich.console.Console",
    "HTTPException": "starlette.exceptions.HTTPException",
    "Path": "pathlib.Path",
    "nn.Module": "torch.nn.Module",
    "np.ndarray": "numpy.ndarray",
    "store.RunEntry": "avalanche_vlm.commands.store.RunEntry",
}
"""Names of other projects as sources write them, where a signature has another name that is for type checkers alone: of
such a one nothing is looked up."""
VARIABLE = re.compile(r"^(\w+) = TypeVar\(", re.MULTILINE)
ANNOTATED = re.compile(r"^(\w+) = Annotated\[", re.MULTILINE)


def dotted(path: Path) -> str:
    """The name under which a file of the package is imported.

    :param path: a module, or the ``__init__.py`` of a package.
    """
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_public(path: Path) -> bool:
    """Whether neither a module nor a package around it is private.

    :param path: a file of the package.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return not any(part.startswith("_") and part != "__init__" for part in parts)


@cache
def modules() -> dict[str, Path]:
    """All public modules and packages by their dotted names."""
    return {dotted(path): path for path in sorted(PACKAGE.rglob("*.py")) if is_public(path) and path.stem != "__main__"}


@cache
def offered() -> dict[str, str]:
    """Where each name is defined that a package offers, by the path under which it is offered."""
    found = {}
    for package, path in modules().items():
        if path.stem == "__init__":
            for name, (module, original) in declared(path.read_text(encoding="utf-8")).items():
                found[f"{package}.{name}"] = f"{module}.{original}"
    return {name: followed(home, found) for name, home in found.items()}


def followed(home: str, found: dict[str, str]) -> str:
    """Where a name is defined that one package may take from another one's offer.

    :param home: the path from which a package takes the name.
    :param found: all offers, with the paths from which they are taken.

    >>> followed("a.X", {"a.X": "a.b.X", "a.b.X": "a.b.c.X"})
    'a.b.c.X'
    """
    while found.get(home, home) != home:
        home = found[home]
    return home


def defined(path: Path) -> Iterator[str]:
    """Public classes and functions of a module.

    :param path: a file of the package.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def annotated() -> dict[str, str]:
    """Types with a range that have a name: signatures say the name, of which the reference tells the range."""
    return {
        name: f"{module}.{name}"
        for module, path in modules().items()
        for name in ANNOTATED.findall(path.read_text(encoding="utf-8"))
    }


def type_variables() -> list[str]:
    """All type variables, which signatures name and nobody uses."""
    return [
        f"{dotted(path)}.{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in VARIABLE.findall(path.read_text(encoding="utf-8"))
    ]


def plain(signature: str) -> str:
    """A signature without the ranges of its types, which pydantic keeps beside them, and without what Python says of a
    default that it cannot write.

    :param signature: parameters or a result, as Sphinx writes them.

    >>> plain("(n: ~typing.Annotated[int, Field(ge=0, of=[1])] | None, m: TypeAliasForwardRef('a.B') = <factory>)")
    '(n: int | None, m: a.B = ...)'
    """
    signature = OBJECT.sub(r"\1...", FORWARD.sub(r"\1", signature))
    while found := RANGED.search(signature):
        depth, comma, end = 0, 0, found.end()
        for end in range(found.end(), len(signature)):
            letter = signature[end]
            if letter == "]" and not depth:
                break
            depth += (letter in "[(") - (letter in "])")
            comma = comma or (end if letter == "," and not depth else 0)
        signature = signature[: found.start()] + signature[found.end() : comma or end] + signature[end + 1 :]
    return signature


def exact(target: str) -> bool:
    """Whether a type in a signature is a whole name already: not to be looked for as the end of one of ours.

    :param target: what is referred to.
    """
    return "." in target or hasattr(builtins, target)


def page(package: str) -> str:
    """The page of a package, in reST.

    :param package: dotted name of the package.
    """
    below = [name for name in modules() if name.rpartition(".")[0] == package]
    packages = [name for name in below if modules()[name].stem == "__init__"]
    offers = {name: home for name, home in offered().items() if name.rpartition(".")[0] == package}
    parts = [heading(package, "="), automodule(package)]
    if offers:
        links = [f"- :py:obj:`{name.rpartition('.')[2]} <{home}>`" for name, home in sorted(offers.items())]
        parts += [f"``{package}`` offers, from where each is defined:", "\n".join(links)]
    if packages:
        parts.append("\n".join([".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in packages)]))
    for name in below:
        if name not in packages:
            parts += [heading(name, "-"), automodule(name)]
    return "\n\n".join(parts) + "\n"


def heading(name: str, rule: str) -> str:
    """A title with its line.

    :param name: what the title says.
    :param rule: the character of the line below it.
    """
    return f"{name}\n{rule * len(name)}"


def automodule(name: str) -> str:
    """The directive that documents a module.

    :param name: dotted name of the module.
    """
    return f".. automodule:: {name}\n   :members:\n   :show-inheritance:"


def write(folder: Path) -> None:
    """Write all pages, and take away those of packages that are gone.

    :param folder: where the pages lie, which holds nothing else.
    """
    pages = {f"{name}.rst": page(name) for name, path in modules().items() if path.stem == "__init__"}
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in pages:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for name, text in pages.items():
        # What has not changed keeps its date, so that a second build reads what is new alone.
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")
