"""Files that the package itself has kept: a run with its model, and where there is time for it advice, a comparison and
a diagnosis as well."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

SIZES = ["--n-train", "8", "--n-test", "4", "--n-held-out", "8", "--n-reference", "8", "--epochs", "1", "--quiet"]
SIZES += ["--order", "sketches,night"]
RUN = ["run", "--keep-tests", "4", *SIZES]
"""Arguments of the run, but for its folder."""


@cache
def whole() -> Path:
    """The world at the place that the environment names, made if it is not there."""
    folder = Path(os.environ["FUZZ_WORLD"])
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _told([*RUN, "--out", str(unfinished / "run")])
        _told(["diagnose", str(unfinished / "run"), "--quiet"])
        update = ["update", str(unfinished / "run"), "--benchmark", "picturebook", "--experience", "2"]
        _told([*update, "--promote", "always", "--epochs", "1", "--quiet", *SIZES[:8]])
        _told(
            ["compare", "--jobs", "1", "--recipes", "fine-tune,wise-ft", "--out", str(unfinished / "compare"), *SIZES]
        )
        _told(["advise", "--recipes", "fine-tune,wise-ft", "--out", str(unfinished / "advise"), *SIZES])
        unfinished.rename(folder)
    return folder


@cache
def folder() -> Path:
    """The whole world where the environment names a place for it, a run alone otherwise."""
    if "FUZZ_WORLD" in os.environ:
        return whole()
    made = Path(tempfile.mkdtemp(prefix="fuzz-world-"))
    _told([*RUN, "--out", str(made / "run")])
    return made


@cache
def files() -> dict[str, bytes]:
    """What the JSON files of the world hold, by their paths in it."""
    return {
        path.relative_to(folder()).as_posix(): path.read_bytes()
        for path in sorted(folder().rglob("*.json"))
        if "report" not in path.name and path.is_file() and "model" not in path.relative_to(folder()).parts
    }


def linked(source: str, target: str) -> None:
    """One more name for a file, or a copy of it on another disk.

    :param source: path of the file.
    :param target: its other path.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def copied(place: Path, name: str, content: bytes, part: str) -> Path:
    """A part of the world with one other file: the files that are not changed are links.

    :param place: an empty folder.
    :param name: path of the file in the world.
    :param content: what it holds instead.
    :param part: the part of the world, a folder in it.
    """
    there = place / part
    shutil.copytree(folder() / part, there, copy_function=linked, symlinks=True)
    for path in there.rglob("*.json"):  # what may be written to is not the world's
        if not path.is_symlink():
            kept = path.read_bytes()
            path.unlink()
            path.write_bytes(kept)
    for lock in there.rglob(".*lock"):
        lock.unlink()
    (place / name).unlink(missing_ok=True)
    (place / name).write_bytes(content)
    return there


@cache
def one_parser() -> None:
    """Have the command line's parser built once: that is most of the time that a refusal takes."""
    from avalanche_vlm.commands.arguments import parser

    parser._parser = cache(parser._parser)


def _told(arguments: list[str]) -> None:
    code, out = said(arguments)
    if code:
        raise RuntimeError(f"{arguments} ended with {code}: {out}")


def said(arguments: list[str]) -> tuple[int, str]:
    """A command in this process: its exit code, and what it printed.

    :param arguments: arguments without the program's name.
    """
    import torch

    from avalanche_vlm import cli

    torch.set_num_threads(1)
    one_parser()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = cli.main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 2
    return code, out.getvalue()
