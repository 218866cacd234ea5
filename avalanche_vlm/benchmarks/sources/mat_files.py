"""MATLAB's ``.mat`` files of version 5, looked over before SciPy reads them.

SciPy's reader takes the kinds of data that a file names for places in a table of its own: a damaged file can end the
process. So the elements are walked first, as MathWorks describes them (*MAT-File Format*, level 5).
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from avalanche_vlm._given import open_regular
from avalanche_vlm.errors import InputError

_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Bytes of a number or letter, by the kind of data."""
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
"""Classes of arrays, of those that data sets have; objects, functions and sparse ones are refused."""
_COMPLEX = 0x800
_HEADER, _TAG, _DEEPEST, _CHUNK = 128, 8, 32, 1 << 20


def read_mat(path: Path, name: str) -> Any:
    """A variable of a ``.mat`` file, without its dimensions of length one.

    :param path: the file, of version 5 to 7.2.
    :param name: name of the variable.
    :raises InputError: if there is no such file or variable, or the file is damaged or of another version.
    """
    import scipy.io

    try:
        with open_regular(path) as file:
            _look_over(file, name.encode())
            file.seek(0)
            content = scipy.io.loadmat(file, squeeze_me=True, variable_names=[name])
    except FileNotFoundError as error:
        raise InputError(f"there is no file at {path}") from error
    except InputError:
        raise
    except Exception as error:  # of a damaged file of any kind
        why = " ".join(str(error).split())
        raise InputError(f"{path} is no MATLAB file that can be read: {why}") from error
    if name not in content:
        raise InputError(f"{path} has no {name!r}")
    return content[name]


class _Damaged(ValueError):
    """Why a file cannot be read, a clause."""


class _Source(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _Inflated:
    """What a compressed element holds, a piece at a time."""

    def __init__(self, source: BinaryIO, n: int) -> None:
        self._source, self._left = source, n
        self._inflate = zlib.decompressobj()
        self._ready, self._at = b"", 0

    def read(self, n: int, /) -> bytes:
        if self._at + n > len(self._ready):
            self._ready, self._at = self._ready[self._at :], 0
            while len(self._ready) < n and (more := self._more()):
                self._ready += more
        found = self._ready[self._at : self._at + n]
        self._at += len(found)
        return found

    def _more(self) -> bytes:
        """The next piece, at most a chunk; nothing at the end."""
        found = b""
        while not found and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed and self._left:
                packed = self._source.read(min(_CHUNK, self._left))
                self._left -= len(packed)
            if not packed:
                break
            found = self._inflate.decompress(packed, _CHUNK)
        return found

    def finish(self) -> None:
        """Go on to where the element ends."""
        _skip(self._source, self._left)


def _look_over(file: BinaryIO, name: bytes) -> None:
    """Walk the elements of a file: all within the variable that is read, and those that begin the others.

    :raises _Damaged: if SciPy could not be trusted with it.
    """
    header = file.read(_HEADER)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if len(header) < _HEADER or order is None:
        raise _Damaged("it has not the head of version 5, with which files are saved that are not of version 7.3")
    if header.startswith(b"MATLAB 7.3") or struct.unpack(f"{order}H", header[124:126])[0] != 0x100:
        raise _Damaged("it is of another version than 5 to 7.2: save it with -v7")
    while (tag := file.read(_TAG)).strip(b"\0"):  # some files end in zeros
        kind, n, _ = _tag(tag, order)
        if kind == _COMPRESSED:
            inner = _Inflated(file, n)
            kind, n, small = _tag(inner.read(_TAG), order)
            _array(_Part(inner, n, order), kind, small, wanted=name)
            inner.finish()
        else:
            part = _Part(file, n, order)
            _array(part, kind, wanted=name)
            _skip(file, part.left)


def _tag(tag: bytes, order: str) -> tuple[int, int, bool]:
    """Kind and number of bytes of an element, and whether its data stand in the second half of the tag."""
    if len(tag) < _TAG:
        raise _Damaged("it ends within an element")
    kind, n = struct.unpack(f"{order}II", tag)
    if kind >> 16:
        kind, n = kind & 0xFFFF, kind >> 16
        if n > 4:
            raise _Damaged(f"an element of {n} bytes stands where four have room")
        return kind, n, True
    return kind, n, False


def _skip(source: _Source, n: int) -> None:
    while n:
        piece = source.read(min(n, _CHUNK))
        if not piece:
            raise _Damaged("it ends within an element")
        n -= len(piece)


class _Part:
    """The elements of an array, which take no more bytes than it has.

    :param source: where they are read.
    :param n: bytes of the array.
    :param order: order of the bytes.
    """

    def __init__(self, source: _Source, n: int, order: str) -> None:
        self._source, self.left, self.order = source, n, order

    def take(self, n: int) -> bytes:
        """Some bytes, and what fills them up to a multiple of eight."""
        whole = -(-n // _TAG) * _TAG
        if whole > self.left:
            raise _Damaged("an element is longer than the array that it is of")
        found = self._source.read(whole)
        if len(found) < whole:
            raise _Damaged("it ends within an element")
        self.left -= whole
        return found[:n]

    def element(self, kinds: tuple[int, ...], least: int = 0, most: int | None = None) -> bytes:
        """Data of one of these kinds; only the bytes are looked at of which ``most`` are asked for."""
        tag = self.take(_TAG)
        kind, n, small = _tag(tag, self.order)
        if kind not in kinds or n % _BYTES[kind] or n < least or (most is not None and n > most):
            raise _Damaged(f"{n} bytes of the kind {kind} stand where they mean nothing")
        if small:
            return tag[4 : 4 + n]
        if most is not None:
            return self.take(n)
        if -(-n // _TAG) * _TAG > self.left:
            raise _Damaged("an element is longer than the array that it is of")
        self.left -= -(-n // _TAG) * _TAG
        _skip(self._source, -(-n // _TAG) * _TAG)
        return b""

    def array(self, depth: int) -> None:
        """An array within the array."""
        kind, n, small = _tag(self.take(_TAG), self.order)
        if n > self.left:
            raise _Damaged("an element is longer than the array that it is of")
        self.left -= n
        within = _Part(self._source, n, self.order)
        _array(within, kind, small, depth)
        if within.left:
            raise _Damaged("an array is longer than what is in it")


def _array(part: _Part, kind: int, small: bool = False, depth: int = 0, wanted: bytes | None = None) -> None:
    """Walk the elements of an array; of one of another name than is wanted those of its head."""
    if kind != _MATRIX or small:
        raise _Damaged(f"an element of the kind {kind} stands where an array should")
    if depth > _DEEPEST:
        raise _Damaged(f"its arrays lie within one another, more than {_DEEPEST} deep")
    if part.left == 0:
        return
    flags = struct.unpack(f"{part.order}I", part.element((6,), 8, 8)[:4])[0]
    of = flags & 0xFF
    sides = part.element((5,), 8, 4 * 32)
    shape = struct.unpack(f"{part.order}{len(sides) // 4}i", sides)
    if min(shape) < 0:
        raise _Damaged(f"an array has the sides {list(shape)}")
    if part.element((1, 2, 16), 0, 1 << 16) != wanted and wanted is not None:
        return
    if of in _NUMBERS:
        for _ in range(2 if flags & _COMPLEX else 1):
            part.element(tuple(_BYTES))
    elif of == _CHAR:
        part.element((1, 2, 3, 4, 16, 17, 18))
    elif of in (_CELL, _STRUCT):
        fields = 1
        if of == _STRUCT:
            length = struct.unpack(f"{part.order}i", part.element((5,), 4, 4))[0]
            names = part.element((1,), 0, 1 << 20)
            if length < 1 or len(names) % length:
                raise _Damaged("the names of its fields have no length")
            fields = len(names) // length
        number = math.prod(shape) * fields
        if number * _TAG > part.left:
            raise _Damaged(f"an array of {number} others has no room for them")
        for _ in range(number):
            part.array(depth + 1)
    else:
        raise _Damaged(f"it has an array of the class {of}, which no list of images has")
