"""Where the versions of a model lie in a folder, and which of them is the model.

``DIR/versions/v1/`` holds the files of a version, and ``DIR/model`` is a relative symbolic link to the one that counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import staged
from avalanche_vlm.storage.durable import sync_folder

MODEL, VERSIONS = "model", "versions"
DESCRIPTION = "model.json"

_VERSION = re.compile(r"v([1-9]\d*)")


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
    :return: its name, such as ``v1``; None where no model was saved.
    """
    with contextlib.suppress(OSError):
        return Path(os.readlink(Path(folder, MODEL))).name
    return None


def point_to(folder: str | Path, version: str) -> None:
    """Make a version the model: whoever loads it gets the old one or the new one, at any moment.

    :param folder: folder that ``save_model`` has written to.
    :param version: name of a version that is there.
    :raises InputError: if there is no such version, or the link cannot be made.
    """
    folder = Path(folder)
    known = version_names(folder)
    if version not in known:
        raise InputError(f"{folder} has no version {version}; it has {', '.join(known) or 'none'}")
    link = folder / f".{MODEL}.{secrets.token_hex(8)}"
    try:
        link.symlink_to(Path(VERSIONS, version), target_is_directory=True)
        os.replace(link, folder / MODEL)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            link.unlink()
        raise InputError(f"cannot make {folder / MODEL} a link to {version}: {error.strerror or error}") from error


def next_version(folder: str | Path) -> str:
    """The name of a version that is added now.

    :param folder: folder of the model; it need not be there.

    >>> next_version("nowhere")
    'v1'
    """
    known = version_names(folder)
    return f"v{int(known[-1][1:]) + 1}" if known else "v1"


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
        raise InputError(f"{path} has no {MODEL}, which says which of {', '.join(known)} is the model")
    raise InputError(f"there is no saved model in {path}: it has no {DESCRIPTION}")


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
