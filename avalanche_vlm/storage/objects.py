"""Tensors on disk by what they hold: what is there is not written again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import written
from avalanche_vlm.storage.layout import TensorForm, layout_of, raw
from avalanche_vlm.storage.manifests import Content, object_path
from avalanche_vlm.storage.tensor_files import Stamp, TensorFile, stamp_of, write_header

BIG = 1 << 20
"""Bytes from which on a tensor has a file of its own."""
SHARD = 1 << 26
"""Bytes of small tensors that share a file."""
MANY = 1 << 14
"""Small tensors that share a file, however small they are."""

_SOUND: dict[Path, Stamp] = {}
"""Files that this process wrote or verified, with what the system said of them then. A file that was changed since is
looked through again, and written anew if it is damaged."""


def content_digest(layout: TensorForm, parts: Iterable[memoryview]) -> str:
    """What names a content: SHA-256 of its type, its sizes in memory and its bytes.

    :param layout: the tensor's layout.
    :param parts: all its bytes, in the order of the layout, in one part or several.
    """
    found = hashlib.sha256(f"{layout.dtype} {list(layout.in_memory)}\0".encode())
    for part in parts:
        found.update(part)
    return found.hexdigest()


def put(folder: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Content]:
    """Have tensors on disk. Those that are there are not written.

    :param folder: folder of states, with its folder of objects.
    :param tensors: tensors by name, on any device.
    :return: contents by name.
    :raises OSError: if a file cannot be written.
    :raises TypeError: if a tensor is one that no file can hold.
    """
    layouts = {name: layout_of(name, tensor) for name, tensor in tensors.items()}
    digests = {name: content_digest(layouts[name], [raw(tensor, layouts[name])]) for name, tensor in tensors.items()}
    first = {key: name for name, key in reversed(digests.items())}
    files = {}
    for keys in _shelves({key: layouts[name].nbytes for key, name in reversed(first.items())}):
        file = keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()
        files.update(dict.fromkeys(keys, file))
        contents = {key: layouts[first[key]] for key in keys}
        path = object_path(folder, file)
        if not is_sound(path, contents):
            with written(path, sync_name=False) as output:
                for key in write_header(output, contents):
                    output.write(raw(tensors[first[key]], contents[key]))
            _SOUND[path.absolute()] = stamp_of(os.stat(path))
    return {name: Content(key, files[key], layouts[name]) for name, key in digests.items()}


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
