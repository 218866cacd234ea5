"""Digests: short names of content, the same on every machine and wherever a file lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from avalanche_vlm._given import refuse_irregular
from avalanche_vlm.errors import InputError

WHOLE = 1 << 20
"""Bytes up to which a file is read whole."""
ENDS = 1 << 18
"""Bytes that are read at either end of a larger file."""


def digest(parts: Iterable[bytes | memoryview | str]) -> str:
    """A name for a sequence of contents, in 16 hexadecimal digits; where one part ends and the next begins counts.

    :param parts: texts, or bytes, which a memoryview may be of.
    :return: digits that other contents have by accident only (1 in 2 ** 64).

    >>> digest(["a", "bc"]) == digest([b"a", b"bc"]), digest(["a", "bc"]) == digest(["ab", "c"])
    (True, False)
    """
    if isinstance(parts, list) and set(map(type, parts)) == {str}:
        return digest_framed(_framed_texts(parts))
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def framed(part: bytes | str) -> bytes:
    """A content behind its length: what :func:`digest` takes of each part.

    :param part: a text, or bytes.
    """
    content = part.encode(errors="surrogatepass") if isinstance(part, str) else part
    return len(content).to_bytes(8, "little") + content


def digest_framed(parts: bytes) -> str:
    """What :func:`digest` gives of parts that :func:`framed` has been applied to.

    :param parts: all of them, one behind the other.

    >>> digest_framed(framed("a") + framed("bc")) == digest(["a", "bc"])
    True
    """
    return hashlib.blake2b(parts, digest_size=8).hexdigest()


def digest_in_pieces(pieces: Iterable[bytes]) -> str:
    """What :func:`digest_framed` gives of pieces one behind the other, of which no more than one need be in memory.

    :param pieces: framed parts, any number in each piece.

    >>> digest_in_pieces([framed("a"), framed("bc")]) == digest(["a", "bc"])
    True
    """
    found = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _framed_texts(parts: list[str]) -> bytes:
    """The parts as they are digested, with no step of Python's for any of them: there may be millions."""
    lengths = set(map(len, parts))
    if len(lengths) == 1 and (length := lengths.pop()) < 128:
        begin = chr(length) + "\0" * 7
        if (joined := begin + begin.join(parts)).isascii():
            return joined.encode()
    frames = {part: framed(part) for part in set(parts)}
    return b"".join([frames[part] for part in parts])


def file_digest(path: Path) -> str:
    """A name for what a file holds: its size and its bytes, all of them up to :data:`WHOLE`, and of a larger file the
    first and the last :data:`ENDS`. Neither its own name nor its times count.

    :param path: path of the file.
    :return: digest in 16 hexadecimal digits.
    :raises InputError: if it cannot be read, or is no regular file.
    """
    try:
        refuse_irregular(path)
        known = path.stat()
        return _of_file(path, known.st_size, known.st_mtime_ns, known.st_ctime_ns)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of all that a file holds, as ``sha256sum`` prints it.

    :param path: path of the file.
    :return: digest in 64 hexadecimal digits.
    :raises OSError: if it cannot be read.
    """
    # hashlib.file_digest does this since Python 3.11.
    found, room = hashlib.sha256(), bytearray(ENDS)
    with path.open("rb", buffering=0) as file, memoryview(room) as view:
        while read := file.readinto(view):
            found.update(view[:read])
    return found.hexdigest()


def folder_digest(path: Path) -> str:
    """A name for what a folder holds: the names of all files below it, relative to it, and what each holds. Hidden
    files and folders do not count.

    :param path: path of the folder.
    :return: digest in 16 hexadecimal digits.
    :raises InputError: if a file in it cannot be read.
    """
    inside = ((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    seen = sorted((name.as_posix(), file) for name, file in inside if not any(p.startswith(".") for p in name.parts))
    return digest(part for name, file in seen for part in (name, file_digest(file)))


@lru_cache(maxsize=1 << 18)
def _of_file(path: Path, size: int, changed: int, entered: int) -> str:
    """Size and times of the last changes, of content and entry, are here so that a file that was written anew is read
    anew."""
    with path.open("rb") as file:
        if size <= WHOLE:
            return digest([str(size), file.read()])
        first = file.read(ENDS)
        file.seek(-ENDS, 2)
        return digest([str(size), first, file.read()])
