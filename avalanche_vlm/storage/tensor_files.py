"""Files of tensors in the safetensors format, written and read tensor by tensor.

The format (https://github.com/huggingface/safetensors#format): eight bytes that say how long the header is, little end
first; the header, a JSON object that gives each tensor's type, shape and place; the tensors' bytes without gaps.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from avalanche_vlm._given import refuse_irregular
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import make_folder, reason, sweep, written
from avalanche_vlm.storage.json_files import each_once
from avalanche_vlm.storage.layout import DTYPES, TensorForm, checked, empty, layout_of, raw

METADATA = "__metadata__"
"""The name in a header under which texts stand instead of a tensor."""
LONGEST_HEADER = 100_000_000
"""Bytes that a header may have, as for the reference implementation."""

Stamp = tuple[int, int, int, int]
"""What the system says of a file, by which one sees that it was changed."""
PIECE = 1 << 20
"""Bytes that are read at a time of a tensor that is only looked through."""
IN_CACHE = 1 << 18
"""Bytes at a time of one with which two things are done: the second finds them in the processor's cache."""


class Extent(NamedTuple):
    """Where a file has a tensor.

    :param layout: the tensor's type and shape.
    :param start: offset of its first byte from the beginning of the file.
    """

    layout: TensorForm
    start: int


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to one safetensors file, which takes the place of an older one when it is whole. At most one tensor
    is in memory twice. Tensors that share memory are written each for itself.

    :param path: the file, in a folder that is made if it is not there.
    :param tensors: tensors by the names that they have in the file, on any device; their elements are written in the
        order of their dimensions, however they lie in memory.
    :param metadata: texts by name for the file's header, such as ``{"format": "pt"}``; None for none.
    :raises InputError: if the file cannot be written, or a name or tensor is one that the format does not have.
    """
    path = Path(path)
    for name, tensor in tensors.items():
        if name == METADATA or not isinstance(name, str) or not _is_text(name):
            raise InputError(f"cannot write {path}: a tensor cannot be called {name!r} in a safetensors file")
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"cannot write {path}: {name!r} is a {type(tensor).__name__}, not a tensor")
    try:
        layouts = {name: layout_of(name, tensor)._replace(strides=None) for name, tensor in tensors.items()}
    except TypeError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    try:
        make_folder(path.parent)
        sweep(path.parent, path.name)
        with written(path) as file:
            names = write_header(file, layouts, metadata)
            for name in names:
                file.write(raw(tensors[name], layouts[name]))
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def read_tensors(path: str | Path, *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file, one after the other. Nothing in the file is executed.

    :param path: the file, made here or elsewhere.
    :param mapped: whether tensors stay on the disk until they are looked at, for callers that copy them; the file is
        then to be left alone, or replaced as a whole, for as long as the tensors live.
    :return: tensors on the CPU by name, in the order of the file.
    :raises InputError: if the file is missing, truncated, or no safetensors file.
    """
    with TensorFile(Path(path)) as file:
        return {name: file.mapped(name) if mapped else file.tensor(name) for name in file.places}


def write_header(
    file: BinaryIO, layouts: Mapping[str, TensorForm], metadata: Mapping[str, str] | None = None
) -> list[str]:
    """Begin a file of tensors.

    :param file: the file, open for writing at its beginning.
    :param layouts: type and shape of each tensor, by name.
    :param metadata: texts by name; None for none.
    :return: names in the order in which the bytes are to follow: wide types first, so that each lies where a processor
        wants it.
    """
    names = sorted(layouts, key=lambda name: -DTYPES[layouts[name].dtype].itemsize)
    header: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
    start = 0
    for name in names:
        layout = layouts[name]
        stop = start + layout.nbytes
        header[name] = {"dtype": layout.dtype, "shape": list(layout.in_memory), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise InputError(f"{len(layouts)} tensors are too many for one safetensors file")
    file.write(len(text).to_bytes(8, "little") + text)
    return names


class TensorFile:
    """A safetensors file that is open for reading; its header was looked through, its tensors come when asked for.

    :param path: path of the file that is read.
    :raises InputError: if it is missing, truncated, or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        try:
            refuse_irregular(path)
            self._file = path.open("rb")
            self.stamp = stamp_of(os.fstat(self._file.fileno()))
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing") from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {reason(error)}") from error
        try:
            self.metadata, self.places = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, name: str, layout: TensorForm | None = None) -> torch.Tensor:
        """A tensor in memory of its own.

        :param name: what it is called in the file.
        :param layout: the layout that it gets, of as many bytes as the file has; None for the file's.
        :raises InputError: if the file ends before, or cannot be read.
        """
        place = self.places[name]
        tensor = empty(layout or place.layout)
        content = raw(tensor, layout or place.layout)
        with self._reading():
            self._file.seek(place.start)
            if self._file.readinto(content) != len(content):
                raise InputError(f"{self.path} is truncated")
        return tensor

    def pieces(self, name: str) -> Iterator[memoryview]:
        """A tensor's bytes, part by part, each part in the place of the one before.

        :param name: what it is called in the file.
        :raises InputError: if the file ends before, or cannot be read.
        """
        place, buffer = self.places[name], memoryview(bytearray(PIECE))
        left = place.layout.nbytes
        with self._reading():
            self._file.seek(place.start)
        while left:
            part = buffer[: min(left, PIECE)]
            with self._reading():
                if self._file.readinto(part) != len(part):
                    raise InputError(f"{self.path} is truncated")
            left -= len(part)
            yield part

    def holds(self, name: str, content: memoryview) -> bool:
        """Whether a tensor's bytes are just these. No more is read than up to the first part that differs.

        :param name: what it is called in the file.
        :param content: the bytes that are looked for, as many as the tensor has.
        :raises InputError: if the file ends before, or cannot be read.
        """
        place, buffer = self.places[name], bytearray(IN_CACHE)
        with self._reading():
            self._file.seek(place.start)
            for start in range(0, place.layout.nbytes, IN_CACHE):
                wanted = content[start : start + IN_CACHE]
                if len(wanted) < IN_CACHE:
                    buffer = bytearray(len(wanted))
                if self._file.readinto(buffer) != len(wanted):
                    raise InputError(f"{self.path} is truncated")
                if buffer != wanted:
                    return False
        return True

    def mapped(self, name: str, layout: TensorForm | None = None) -> torch.Tensor:
        """A tensor that the system reads from the file where it is looked at, and of which it copies what is written
        to: it takes no memory that the system cannot have back, and needs the file to stay as it is.

        :param name: what it is called in the file.
        :param layout: the layout that it gets, of as many bytes as the file has; None for the file's.
        """
        place, layout = self.places[name], layout or self.places[name].layout
        dtype = DTYPES[layout.dtype]
        if not place.layout.nbytes or place.start % dtype.itemsize:
            return self.tensor(name, layout)
        with self._reading():
            if self._map is None:
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = place.layout.nbytes // dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=place.start)
        return flat.view(layout.shape) if layout.strides is None else flat.as_strided(layout.shape, layout.strides)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {reason(error)}") from error

    def _read_header(self) -> tuple[dict[str, str], dict[str, Extent]]:
        with self._reading():
            size = self._file.seek(0, 2)
            self._file.seek(0)
            length = int.from_bytes(self._file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise InputError(f"{self.path} is truncated or no safetensors file")
            text = self._file.read(length)
        try:
            header = json.loads(text, parse_constant=_no_number, object_pairs_hook=each_once)
            metadata = header.pop(METADATA, {})
            if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata are no texts")
            if not all(map(_is_text, (*header, *metadata, *metadata.values()))):
                raise ValueError("half of a character stands for a whole one")
            places = {name: Extent(*_place(entry, 8 + length)) for name, entry in header.items()}
            _check_without_gaps(places.values(), 8 + length, size)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            why = f": {error}" if isinstance(error, InputError) else ""
            raise InputError(f"{self.path} is truncated or no safetensors file{why}") from error
        return metadata, dict(sorted(places.items(), key=lambda item: item[1].start))


def stamp_of(known: os.stat_result) -> Stamp:
    """What changes when a file does.

    :param known: what the system says of the file.
    """
    return known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns


def _place(entry: Mapping[str, Any], begin: int) -> tuple[TensorForm, int]:
    if len(entry) > 3:  # what is in it besides is no JSON to other readers now and then
        raise InputError("a tensor is described by its type, shape and place, and by nothing else")
    layout = checked(entry["dtype"], entry["shape"])
    start, stop = entry["data_offsets"]
    if type(start) is not int or type(stop) is not int or start < 0 or stop - start != layout.nbytes:
        raise InputError("a tensor's place is not as long as the tensor")
    return layout, begin + start


def _check_without_gaps(places: Iterable[Extent], begin: int, size: int) -> None:
    """Each tensor follows on the one before, and the last one ends with the file."""
    for place in sorted(places, key=lambda place: (place.start, place.layout.nbytes)):
        if place.start != begin:
            raise InputError("its tensors overlap or leave gaps")
        begin += place.layout.nbytes
    if begin != size:
        raise InputError(f"it has {size} bytes and describes {begin}")


def _no_number(said: str) -> None:
    raise ValueError(f"{said} is no JSON")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
