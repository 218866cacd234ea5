"""Files and folders that are there whole or not at all, also after the machine has lost its power."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from avalanche_vlm.errors import InputError

UNFINISHED = ".part"
"""How the name of a file or folder ends that is being written; it begins with a dot."""

_ROOM = 200
"""Bytes that a name may have so that what is written beside it has a name as well: disks take 255."""


@contextlib.contextmanager
def written(path: Path, *, sync: bool = True, sync_name: bool = True) -> Iterator[BinaryIO]:
    """A file that takes the place of another one when all of it is on the disk.

    A new file has the permissions that the process's umask leaves; one that is replaced keeps its own.

    :param path: the file that is replaced, in a folder that is there.
    :param sync: whether all is on the disk when this is over; False for whoever waits for that later, and knows until
        then what to do with a file that a loss of power has left damaged.
    :param sync_name: whether the new name is on the disk as well when this is over; False for one of many files whose
        folder is synchronized after the last of them.
    :return: the file to write to, open for bytes.
    :raises OSError: if it cannot be written; the old file is then as it was, and nothing else is left behind.
    """
    with unnamed(path.parent, path.name, sync=sync) as made:
        yield made.file
        made.path = path
    if sync and sync_name:
        sync_folder(path.parent)


class Unnamed:
    """A file that is being written.

    :param file: the file to write to, open for bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.path: Path | None = None
        """What it becomes when it is whole, in the folder that it lies in; None to leave nothing of it."""


@contextlib.contextmanager
def unnamed(folder: Path, name: str = "unnamed", *, sync: bool = True) -> Iterator[Unnamed]:
    """A file that gets its name when it is whole, because that follows from what it holds.

    :param folder: folder of the file, which is there.
    :param name: what it is called among those that are being written.
    :param sync: whether its bytes are on the disk before it has its name.
    :return: the file, whose ``path`` is to be set.
    :raises OSError: if it cannot be written; nothing is then left of it.
    """
    temporary = _beside(folder / name)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            made = Unnamed(file)
            yield made
            file.flush()
            if sync and made.path is not None:
                os.fsync(file.fileno())
        if made.path is None:
            temporary.unlink()
            return
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(made.path.stat().st_mode)
            if mode != stat.S_IMODE(temporary.stat().st_mode):
                temporary.chmod(mode)
        os.replace(temporary, made.path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that takes the place of another one; an interruption, of the machine's power too, leaves the old one
    or the new one.

    :param path: the file that is replaced; its folder is made if it is not there.
    :param content: its new content.
    :raises InputError: if the file cannot be written (no space, no permission), naming it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     replace_file(Path(home, "new", "a.txt"), b"a")
    ...     Path(home, "new", "a.txt").read_bytes()
    b'a'
    """
    try:
        make_folder(path.parent)
        with written(path) as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def write_or_remark(write: Callable[[], None], remark: Callable[[str], None]) -> None:
    """Write what is there for convenience, such as how far a run is: that it cannot be written is a remark, and neither
    ends what goes on nor loses what was computed.

    :param write: writes it, and raises an InputError if it cannot.
    :param remark: is told why it could not be written, in a sentence.
    """
    try:
        write()
    except InputError as error:
        remark(str(error))


@contextlib.contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """A folder that appears under its name when all that is in it is on the disk; after an error nothing is left.

    What a killed process left of an earlier attempt at the same folder is removed.

    :param folder: the folder that is made, with those above it; there must be none of its name, unless it is empty.
    :return: where its files are to be written in the meantime.
    :raises InputError: if the folder is there already, or cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     with staged(Path(home, "v1")) as unfinished:
    ...         _ = (unfinished / "a.txt").write_text("a")
    ...         before = Path(home, "v1").exists()
    ...     before, Path(home, "v1", "a.txt").read_text()
    (False, 'a')
    """
    folder = Path(folder)
    try:
        make_folder(folder.parent)
        for leftover in _unfinished(folder.parent, folder.name):
            shutil.rmtree(leftover, ignore_errors=True)
        _check_free(folder)
        temporary = _beside(folder)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {reason(error)}") from error
    try:
        yield temporary
        for below, _, files in os.walk(temporary, topdown=False):
            for name in files:
                sync_file(Path(below, name))
            sync_folder(Path(below))
        _check_free(folder)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and _is_of(error, folder.parent):
            raise InputError(f"cannot write the folder {folder}: {reason(error)}") from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they are there after a loss of power.

    :param folder: the folder, which may be there already.
    :raises OSError: if it cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the system can do that.

    :param folder: the folder whose files were made, renamed or removed.
    :raises OSError: if the disk fails.
    """
    if os.name == "nt":
        return  # there a folder cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # the file system does not know it
            raise
    finally:
        os.close(handle)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the files that killed processes were writing.

    :param folder: the folder that is looked into, and not those below it.
    :param name: name of the file that they were to become; None for all.
    """
    for path in _unfinished(folder, name):
        with contextlib.suppress(OSError):
            path.unlink()


def reason(error: OSError) -> str:
    """Why the system refused, in its own words.

    :param error: what it raised.
    """
    return error.strerror or str(error) or type(error).__name__


def check_length(path: Path, below: int = 0) -> None:
    """Refuse a path that is too long for the system, before anything is done that is to be written there.

    :param path: a file or folder that will be made.
    :param below: bytes that the names of what will lie in it take at most.
    :raises InputError: for a name, or a whole path, of more bytes than the disk takes, or that no disk takes.

    >>> check_length(Path("out" * 100))
    Traceback (most recent call last):
    avalanche_vlm.errors.InputError: the name 'outoutoutouto...' has 300 bytes, and this disk takes 255 at most
    """
    if not hasattr(os, "pathconf"):
        return
    whole = Path(os.path.abspath(path))
    try:
        os.fsencode(whole)
    except UnicodeEncodeError as error:
        raise InputError(
            f"no file or folder can be called {os.fspath(path)!r}: half of a character is no text"
        ) from error
    there = next(above for above in (whole, *whole.parents) if os.path.exists(above))
    most = {name: os.pathconf(there, f"PC_{name}_MAX") for name in ("NAME", "PATH")}
    for name in whole.parts:
        if (length := len(os.fsencode(name))) > most["NAME"] > 0:
            said = f"the name '{name[:13]}...' has {length} bytes"
            raise InputError(f"{said}, and this disk takes {most['NAME']} at most")
    length = len(os.fsencode(whole)) + below
    if length >= most["PATH"] > 0:
        needed = f" with the names of {below} bytes that will lie in it" if below else ""
        raise InputError(
            f"the path '{os.fspath(path)[:13]}...' has {length} bytes{needed}, and this system takes "
            f"{most['PATH'] - 1} at most"
        )


def _beside(path: Path) -> Path:
    return path.with_name(f".{_stem(path.name)}.{secrets.token_hex(8)}{UNFINISHED}")


def _stem(name: str) -> str:
    """A name, or what stands for it where more letters would be too many for the disk."""
    if len(os.fsencode(name)) <= _ROOM:
        return name
    return f"{name[: _ROOM // 8]}-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"


def _unfinished(folder: Path, name: str | None) -> list[Path]:
    """What :func:`_beside` named, of one file or of all."""
    begin = "*" if name is None else glob.escape(_stem(name))
    return list(folder.glob(f".{begin}.{'[0-9a-f]' * 16}{UNFINISHED}"))


def _is_of(error: OSError, folder: Path) -> bool:
    """Whether the system was asked for something in a folder; of a write it does not say where."""
    return error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder)


def _check_free(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already: nothing was written to it")


def sync_file(path: Path) -> None:
    """Have a file's bytes written to the disk; a link is left alone.

    :param path: path of the file.
    :raises OSError: if the disk fails.
    """
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
