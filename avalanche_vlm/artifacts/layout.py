"""Where the versions of a model lie in a folder, and which of them is the model.

``DIR/versions/v1/`` holds the files of a version, and ``DIR/model`` is a relative symbolic link to the one that counts.
Where a file system has no links, or somebody has copied ``DIR`` in a way that follows them, ``DIR/model`` is a folder
with a copy of that version.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import Lock, staged
from avalanche_vlm.storage.durable import sync_folder

MODEL, VERSIONS = "model", "versions"
DESCRIPTION = "model.json"

_VERSION = re.compile(r"v([1-9][0-9]*)")

_POINTER, _PATIENCE = ".model.lock", 10.0
"""The lock of the moment in which ``DIR/model`` moves, and the seconds that one waits for another to move it."""

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that has no symbolic links, or a system that does not let everybody make them."""


def version_names(folder: str | Path) -> list[str]:
    """The versions of a model, the oldest first.

    :param folder: folder that ``save_model`` has written to.
    :return: names such as ``v1``; none where no model was saved.
    """
    found = (_VERSION.fullmatch(path.parent.name) for path in Path(folder, VERSIONS).glob(f"*/{DESCRIPTION}"))
    return [f"v{number}" for number in sorted(int(match[1]) for match in found if match)]


def current_version(folder: str | Path) -> str | None:
    """The version that is the model now.

    :param folder: folder that ``save_model`` has written to.
    :return: its name, such as ``v1``; None where no model was saved, or ``DIR/model`` is a folder of something else.
    """
    link = Path(folder, MODEL)
    with contextlib.suppress(OSError):
        return Path(os.readlink(link)).name
    with contextlib.suppress(OSError):
        told = (link / DESCRIPTION).read_bytes()
        for name in reversed(version_names(folder)):
            if Path(folder, VERSIONS, name, DESCRIPTION).read_bytes() == told:
                return name
    return None


@contextlib.contextmanager
def pointing(folder: str | Path) -> Iterator[None]:
    """Within a block nobody else moves the model, or asks which version it is in order to move it: not ``rollback``,
    not the end of an update, which else goes on for hours beside a rollback, and not whoever saves a version.

    :param folder: the folder that was saved to.
    :raises InputError: if another process keeps it for seconds.
    """
    with Lock(Path(folder, VERSIONS), name=_POINTER).acquire(_PATIENCE):
        yield


def model_version(folder: str | Path) -> str:
    """The version that is the model now and that is there.

    :param folder: folder that ``save_model`` has written to.
    :return: its name, such as ``v1``.
    :raises InputError: if no model was saved, or what ``DIR/model`` points to is gone.
    """
    current, known = current_version(folder), version_names(folder)
    if current is not None and current in known:
        return current
    if not known:
        raise InputError(f"there is no saved model in {folder}: it has no {VERSIONS}")
    raise InputError(_without_model(Path(folder), current, known))


def known_version(folder: str | Path, version: str) -> str:
    """The name of a version, if it is there.

    :param folder: folder that ``save_model`` has written to.
    :param version: name of a version.
    :raises InputError: if there is none of this name, with those that there are.
    """
    known = version_names(folder)
    if version not in known:
        raise InputError(f"{folder} has no version {version}; it has {', '.join(known) or 'none'}")
    return version


def point_to(folder: str | Path, version: str) -> None:
    """Make a version the model: whoever loads it gets the old one or the new one, at any moment. On a file system
    without symbolic links ``DIR/model`` becomes a copy of the version, and is not there for the time of two renames.

    :param folder: folder that ``save_model`` has written to.
    :param version: name of a version that is there.
    :raises InputError: if there is no such version, ``DIR/model`` is a folder of something else, or the link cannot be
        made; nothing has changed then.
    """
    folder = Path(folder)
    version, model = known_version(folder, version), folder / MODEL
    if model.exists() and not model.is_symlink() and current_version(folder) is None:
        raise InputError(
            f"{model} is not a link to a version and not a copy of one either, so it is not replaced: move it away"
        )
    new = folder / f".{MODEL}.{secrets.token_hex(8)}"
    try:
        try:
            new.symlink_to(Path(VERSIONS, version), target_is_directory=True)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copytree(folder / VERSIONS / version, new, copy_function=_linked)
        _take_the_place(new, model)
        sync_folder(folder)
    except OSError as error:
        if new.is_symlink() or not new.is_dir():
            new.unlink(missing_ok=True)
        else:
            shutil.rmtree(new, ignore_errors=True)
        raise InputError(f"cannot make {model} a link to {version}: {error.strerror or error}") from error


def _linked(source: str, target: str) -> None:
    """One more name for a file, or a copy of it where files have one name only."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _take_the_place(new: Path, model: Path) -> None:
    """Rename what is new over what is there: a folder replaces nothing and is replaced by nothing."""
    if not os.path.lexists(model) or (model.is_symlink() and new.is_symlink()):
        os.replace(new, model)
        return
    before = new.with_name(f"{new.name}-before")
    os.rename(model, before)
    try:
        os.rename(new, model)
    except OSError:
        os.rename(before, model)
        raise
    if before.is_symlink():
        before.unlink()
    else:
        shutil.rmtree(before, ignore_errors=True)


def next_version(folder: str | Path) -> str:
    """The name of a version that is added now.

    :param folder: folder of the model; it need not be there.

    >>> next_version("nowhere")
    'v1'
    """
    known = version_names(folder)
    return f"v{int(known[-1][1:]) + 1}" if known else "v1"


def checked_version(name: str) -> str:
    """The name of a version, if it is one.

    :param name: what is to be one.
    :raises InputError: for a name of another form, which nobody would find again.

    >>> checked_version("v2")
    'v2'
    """
    if not isinstance(name, str) or not _VERSION.fullmatch(name):
        raise InputError(f"a version is called v1, v2 and so on, not {name!r}")
    return name


def version_folder(path: str | Path) -> Path:
    """The folder with the files of a saved model.

    :param path: what a user names: the folder that was saved to, its ``model``, or one of its versions.
    :return: the folder itself and no link to it, so that its files stay together if the link moves.
    :raises InputError: if no model is there.
    """
    path = Path(path)
    for candidate in (path, path / MODEL):
        if (candidate / DESCRIPTION).is_file():
            return candidate.resolve()
    if not path.exists():
        raise InputError(f"there is no saved model at {path}: nothing is there")
    if path.is_dir() and (known := version_names(path)):
        raise InputError(_without_model(path, current_version(path), known))
    raise InputError(f"there is no saved model in {path}: it has no {DESCRIPTION}")


def _without_model(folder: Path, current: str | None, known: list[str]) -> str:
    """The sentence on a folder with versions of which none is the model."""
    there = ", ".join(known)
    if current is None:
        return (
            f"{folder} has no {MODEL}, which says which of {there} is the model: rollback makes one of them the model"
        )
    return f"{folder / MODEL} points to {current}, which is not there whole: rollback makes one of {there} the model"


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A version's folder, written beside and there when it is whole; one of that name goes then, and stays otherwise.

    :param folder: the folder of the version.
    :return: where its files are to be written in the meantime.
    :raises InputError: if it cannot be written.
    """
    before = folder.with_name(f".{folder.name}-before")  # also where a killed process left it
    try:
        if folder.exists():
            shutil.rmtree(before, ignore_errors=True)
            os.rename(folder, before)
    except OSError as error:
        raise InputError(f"cannot replace {folder}: {error.strerror or error}") from error
    try:
        with staged(folder) as unfinished:
            yield unfinished
    except BaseException:
        if before.exists() and not folder.exists():
            os.rename(before, folder)
        raise
    shutil.rmtree(before, ignore_errors=True)
