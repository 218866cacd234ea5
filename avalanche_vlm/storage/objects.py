"""Tensors on disk by what they hold: what is there is not written again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch

from avalanche_vlm._processors import cores
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import unnamed, written
from avalanche_vlm.storage.layout import TensorForm, layout_of, lies_so, raw
from avalanche_vlm.storage.manifests import Content, object_path
from avalanche_vlm.storage.tensor_files import IN_CACHE, Stamp, TensorFile, stamp_of, write_header

BIG = 1 << 20
"""Bytes from which on a tensor has a file of its own."""
SHARD = 1 << 26
"""Bytes of small tensors that share a file."""
MANY = 1 << 14
"""Small tensors that share a file, however small they are."""
BY_ONE = 1 << 24
"""Bytes up to which one thread does all; hashing and writing more is shared among several."""
THREADS = 4
"""Threads at most: more than the disk keeps up with would only take processors from others."""

_T = TypeVar("_T")
_R = TypeVar("_R")

_SOUND: dict[Path, Stamp] = {}
"""Files that this process wrote or verified, with what the system said of them then. A file that was changed since is
looked through again, and written anew if it is damaged."""

_LOST: set[Path] = set()
"""Files that the disk did not take. The system may show their bytes and take them for written, so that neither reading
nor synchronizing them again tells: they are written anew."""


def content_digest(layout: TensorForm, parts: Iterable[memoryview]) -> str:
    """What names a content: SHA-256 of its type, its sizes in memory and its bytes.

    :param layout: the tensor's layout.
    :param parts: all its bytes, in the order of the layout, in one part or several.
    """
    found = hashlib.sha256(f"{layout.dtype} {list(layout.in_memory)}\0".encode())
    for part in parts:
        found.update(part)
    return found.hexdigest()


def put(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    before: Mapping[str, Content] | None = None,
    unsynced: list[Path] | None = None,
) -> dict[str, Content]:
    """Have tensors on disk. Those that are there are not written.

    :param folder: folder of states, with its folder of objects.
    :param tensors: tensors by name, on any device.
    :param before: what the tensors of these names were, as far as is known. One whose bytes are still those of its file
        is not hashed: the two are compared, which takes a fifth of the time and leaves no less certain what it is.
    :param unsynced: gets the files that were written and may not be on the disk yet; None to wait for the disk.
    :return: contents by name.
    :raises OSError: if a file cannot be written.
    :raises TypeError: if a tensor is one that no file can hold.
    """
    return _Putting(folder, tensors, before or {}, unsynced).contents()


def get(folder: Path, file: str, wanted: Mapping[str, Content], *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Tensors out of a file, each verified and in memory of its own.

    :param folder: folder of states.
    :param file: name of the file, 64 hexadecimal digits.
    :param wanted: contents of the file by any names.
    :param mapped: whether big tensors stay on the disk until they are looked at.
    :return: tensors by these names.
    :raises InputError: if the file lacks one, or holds other bytes than a digest says.
    """
    path = object_path(folder, file)
    with TensorFile(path) as source:
        found = {name: _taken(source, content.digest, content.layout, mapped) for name, content in wanted.items()}
        if {content.digest for content in wanted.values()} == set(source.places):
            _SOUND[path.absolute()] = source.stamp
    return found


def is_sound(path: Path, layouts: Mapping[str, TensorForm]) -> bool:
    """Whether a file has just these contents, undamaged.

    :param path: path of the file that is looked at.
    :param layouts: layouts by digest.
    """
    try:
        if path.absolute() in _LOST:
            return False
        if _SOUND.get(path.absolute()) == stamp_of(os.stat(path)):
            return True
        with TensorFile(path) as file:
            if set(file.places) != set(layouts):
                return False
            for key, layout in layouts.items():
                _check_sizes(file, key, layout)
                _verify(file, key, layout, file.pieces(key))
            _SOUND[path.absolute()] = file.stamp
    except (OSError, InputError):
        return False
    return True


def distrust(paths: Iterable[Path]) -> None:
    """Have files written anew when they are needed again, whatever they seem to hold.

    :param paths: paths of the files that the disk did not take.
    """
    _LOST.update(path.absolute() for path in paths)


def remove_others(folder: Path, files: Iterable[str]) -> None:
    """Remove the files of objects that nothing refers to any more.

    :param folder: folder of states.
    :param files: names of those that stay.
    :raises OSError: if one cannot be removed.
    """
    kept = set(files)
    for path in object_path(folder, "").parent.glob("*.safetensors"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)
            _SOUND.pop(path.absolute(), None)
            _LOST.discard(path.absolute())


class _Putting:
    """What :func:`put` does."""

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, torch.Tensor],
        before: Mapping[str, Content],
        unsynced: list[Path] | None,
    ) -> None:
        self.folder, self.tensors, self.unsynced = folder, tensors, unsynced
        self.layouts = {name: layout_of(name, tensor) for name, tensor in tensors.items()}
        self.before = {name: known for name, known in before.items() if self.layouts.get(name) == known.layout}
        self.alone = threading.Lock()

    def contents(self) -> dict[str, Content]:
        same = self.unchanged()
        rest = [name for name in self.tensors if name not in same]
        digests = dict(zip(rest, _each(self.digest_of, rest, self.nbytes(rest)), strict=True))
        first = {key: name for name, key in reversed(digests.items())}
        files: dict[str, str] = {}
        missing: list[tuple[Path, dict[str, str]]] = []
        for keys in _shelves({key: self.layouts[name].nbytes for key, name in reversed(first.items())}):
            file = keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()
            files.update(dict.fromkeys(keys, file))
            path, names = object_path(self.folder, file), {key: first[key] for key in keys}
            if not is_sound(path, {key: self.layouts[name] for key, name in names.items()}):
                missing.append((path, names))
        _each(self.write, missing, self.nbytes(name for _, names in missing for name in names.values()))
        return same | {name: Content(key, files[key], self.layouts[name]) for name, key in digests.items()}

    def nbytes(self, names: Iterable[str]) -> int:
        return sum(self.layouts[name].nbytes for name in names)

    def looked_at(self, name: str, do: Callable[[memoryview], _R]) -> _R:
        """Do something with a tensor's bytes. What is copied for that is in memory twice: one tensor at a time."""
        tensor, layout = self.tensors[name], self.layouts[name]
        with contextlib.nullcontext() if lies_so(tensor, layout) else self.alone:
            return do(raw(tensor, layout))

    def unchanged(self) -> dict[str, Content]:
        """The tensors whose bytes are still those of the files that they were written to."""
        files: dict[str, list[str]] = {}
        for name, known in self.before.items():
            files.setdefault(known.file, []).append(name)
        found = _each(lambda file: self.still_in(file, files[file]), list(files), self.nbytes(self.before))
        return {name: self.before[name] for names in found for name in names}

    def still_in(self, file: str, names: list[str]) -> list[str]:
        """Of the tensors that were in a file those that are as they were. Of a file of many small ones they stay there
        if they are half of it at least: otherwise little would keep much on the disk."""
        path = object_path(self.folder, file)
        try:
            with TensorFile(path) as source:
                if path.absolute() in _LOST or _SOUND.get(path.absolute()) != source.stamp:
                    return []
                found = [name for name in names if self.is_in(source, name)]
                held = sum(place.layout.nbytes for place in source.places.values())
        except InputError:  # it is written anew
            return []
        there = {self.before[name].digest: name for name in found}
        return found if 2 * self.nbytes(there.values()) >= held else []

    def is_in(self, source: TensorFile, name: str) -> bool:
        key = self.before[name].digest
        return key in source.places and self.looked_at(name, lambda content: source.holds(key, content))

    def digest_of(self, name: str) -> str:
        """What names a tensor's content. One that was another is written on the way, which reads it once."""
        layout, known = self.layouts[name], self.before.get(name)
        if known is None or layout.nbytes < BIG:
            key = self.looked_at(name, lambda content: content_digest(layout, [content]))
        else:
            key = self.looked_at(name, lambda content: self.write_changed(layout, content, known))
        if known is not None and known.digest == key:  # its file is not what it was taken for
            _SOUND.pop(object_path(self.folder, known.file).absolute(), None)
        return key

    def write_changed(self, layout: TensorForm, content: memoryview, known: Content) -> str:
        """Hash a big tensor while it is written.

        :param layout: the tensor's layout.
        :param content: all its bytes.
        :param known: what it was before.
        :return: what names its content.
        """

        def parts(file: BinaryIO) -> Iterator[memoryview]:
            for start in range(0, len(content), IN_CACHE):
                yield (part := content[start : start + IN_CACHE])
                file.write(part)

        with unnamed(object_path(self.folder, "").parent, sync=self.unsynced is None) as made:
            write_header(made.file, {"0" * 64: layout})  # as long as the one with the digest, which is not known yet
            key = content_digest(layout, parts(made.file))
            path = object_path(self.folder, key)
            if key == known.digest or is_sound(path, {key: layout}):
                return key
            made.file.seek(0)
            write_header(made.file, {key: layout})
            made.path = path
        self.wrote(path)
        return key

    def write(self, one: tuple[Path, dict[str, str]]) -> None:
        """Write a file.

        :param one: its path, and its tensors' names by digest.
        """
        path, names = one
        with written(path, sync=self.unsynced is None, sync_name=False) as output:
            for key in write_header(output, {key: self.layouts[name] for key, name in names.items()}):
                self.looked_at(names[key], output.write)
        self.wrote(path)

    def wrote(self, path: Path) -> None:
        _SOUND[path.absolute()] = stamp_of(os.stat(path))
        _LOST.discard(path.absolute())
        if self.unsynced is not None:
            self.unsynced.append(path)


def _each(do: Callable[[_T], _R], what: Sequence[_T], nbytes: int) -> list[_R]:
    """Do something with each, in several threads where there is much to do.

    :param nbytes: bytes that are looked at or written.
    """
    threads = min(THREADS, cores(), len(what))
    if threads < 2 or nbytes <= BY_ONE:
        return [do(one) for one in what]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, what))


def _shelves(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Contents by file, each with its bytes: a big one by itself, small ones together in their order."""
    shard: list[str] = []
    filled = 0
    for key, size in sizes.items():
        if size >= BIG:
            yield [key]
            continue
        if filled + size > SHARD or len(shard) == MANY:
            yield shard
            shard, filled = [], 0
        shard.append(key)
        filled += size
    if shard:
        yield shard


def _taken(file: TensorFile, key: str, layout: TensorForm, mapped: bool) -> torch.Tensor:
    _check_sizes(file, key, layout)
    if mapped and layout.nbytes >= BIG:
        _verify(file, key, layout, file.pieces(key))
        return file.mapped(key, layout)
    tensor = file.tensor(key, layout)
    _verify(file, key, layout, [raw(tensor, layout)])
    return tensor


def _check_sizes(file: TensorFile, key: str, layout: TensorForm) -> None:
    place = file.places.get(key)
    if place is None or (place.layout.dtype, place.layout.shape) != (layout.dtype, layout.in_memory):
        raise InputError(f"{file.path} is damaged: it lacks a tensor that it should have")


def _verify(file: TensorFile, key: str, layout: TensorForm, parts: Iterable[memoryview]) -> None:
    if content_digest(layout, parts) != key:
        _SOUND.pop(file.path.absolute(), None)
        raise InputError(f"{file.path} is damaged: a tensor in it was changed")
