"""Where exemplars' pictures lie: raw or encoded, in RAM or on disk, always within their budget.

A picture has a slot. ``replace`` gives up slots and takes new pictures in one step, so that the room of those that go
is free for those that come.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import secrets
import shutil
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image

from avalanche_vlm._memory import memory
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.spooled import PIECE, spooled
from avalanche_vlm.storage import Lock
from avalanche_vlm.storage.allocation import allocate
from avalanche_vlm.units import human_bytes

Codec = Literal["uint8", "png", "jpeg"]
Payload = Sequence[np.ndarray] | np.ndarray
"""Pictures as they are stored: one uint8 array each."""


class PixelStore(Protocol):
    """Pictures by slot."""

    def replace(self, kept: np.ndarray, payload: Payload) -> tuple[np.ndarray, np.ndarray]:
        """Give up all slots but ``kept``, take new pictures.

        :param kept: slots of the pictures that stay, int64.
        :param payload: new pictures as they are stored.
        :return: the slots of those that stay and of those that are new, from now on.
        """
        ...

    def read(self, slots: np.ndarray) -> Payload:
        """Pictures as they are stored.

        :param slots: slots of the pictures that are asked for, int64.
        """
        ...

    def packed(self, slots: np.ndarray) -> torch.Tensor:
        """Pictures as they are stored, end to end, in memory or on disk as the store is itself.

        :param slots: slots of the pictures that are asked for, int64.
        :return: their bytes, uint8, which do not change with the store.
        """
        ...

    def stored(self) -> StoredBytes:
        """Bytes of the pictures that are there."""
        ...


def encode(pixels: torch.Tensor, codec: Codec, quality: int) -> Payload:
    """Pictures as they will be stored.

    :param pixels: uint8 ``[B, 3, H, W]`` on the CPU.
    :param codec: ``"uint8"`` and ``"png"`` keep every bit, ``"jpeg"`` does not.
    :param quality: quality of JPEG, 1 to 100.
    """
    if codec == "uint8":
        return list(pixels.reshape(len(pixels), -1).numpy())
    options = {"quality": quality} if codec == "jpeg" else {}
    payload = []
    for picture in pixels.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, codec, **options)
        payload.append(np.frombuffer(buffer.getvalue(), dtype=np.uint8))
    return payload


def decode(payload: Payload, codec: Codec, shape: tuple[int, ...]) -> torch.Tensor:
    """Pictures as they were taken in, up to what the codec loses.

    :param payload: n pictures as they are stored.
    :param codec: how they are stored.
    :param shape: shape of a picture, ``(3, H, W)``.
    :return: uint8 pixels ``[n, 3, H, W]``.
    :raises InputError: if a stored picture is damaged.
    """
    if not len(payload):
        return torch.zeros(0, *shape, dtype=torch.uint8)
    if codec == "uint8":
        return torch.from_numpy(np.stack(list(payload))).view(len(payload), *shape)
    pixels = np.empty((len(payload), *shape[1:], 3), dtype=np.uint8)
    for picture, encoded in zip(pixels, payload, strict=True):
        try:
            picture[:] = np.asarray(Image.open(io.BytesIO(encoded.tobytes())))
        except Exception as error:  # Pillow's decoders let many kinds of errors out of damaged files
            raise InputError(f"a stored {codec} exemplar is damaged: {str(error).splitlines()[0]}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def make_store(codec: Codec, capacity: int, size: int, folder: Path | None) -> PixelStore:
    """An empty store.

    :param codec: how pictures are kept.
    :param capacity: raw pictures that it will hold at most.
    :param size: bytes of a raw picture.
    :param folder: None for RAM.
    """
    if codec == "uint8":
        return _Raw(capacity, size, folder)
    return _Packed() if folder is None else _Files(folder, codec)


def check_codec(codec: str, quality: int) -> None:
    """See whether pictures can be kept so.

    :param codec: name of a codec.
    :param quality: quality of JPEG, 1 to 100.
    :raises InputError: for an unknown codec, or a quality out of its range.
    """
    if codec not in get_args(Codec):
        raise InputError(f"exemplars are kept as {', '.join(get_args(Codec))}, not {codec!r}")
    if not 1 <= quality <= 100:
        raise InputError(f"the quality of JPEG is 1 to 100, not {quality}")


def _own_folder(owner: object, folder: Path) -> Path:
    """A folder of this store's own, for as long as it lives: two memories under one roof do not meet. Those that killed
    processes have left under it are removed.

    :raises InputError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        unlocked = folder / f".exemplars-{secrets.token_hex(8)}"
        unlocked.mkdir()  # with the permissions that the umask leaves
        lock = Lock(unlocked).acquire()
        path = unlocked.rename(folder / unlocked.name[1:])  # under its name it is locked from the beginning
    except OSError as error:
        raise InputError(f"cannot keep exemplars in {folder}: {error.strerror or error}") from error
    weakref.finalize(owner, _remove, path, lock)
    return path


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob("exemplars-*"):
        lock = Lock(path)
        if lock.path.is_file():
            with contextlib.suppress(InputError), lock:  # of a process that lives it is not to be had
                if lock.excludes:
                    shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path, lock: Lock) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.release()


def _spooled(parts: Iterable[np.ndarray], folder: Path) -> torch.Tensor:
    try:
        return spooled(parts, folder)
    except OSError as error:
        raise InputError(f"cannot copy the exemplars in {folder}: {error.strerror or error}") from error


def _promised(slots: int, size: int) -> np.ndarray:
    """Slots in memory, as many as the system promises: it may promise no process all the memory that there is."""
    while True:
        try:
            return np.empty((slots, size), dtype=np.uint8)
        except MemoryError:
            if slots == 1:
                raise
            slots //= 2


class _Raw:
    """Fixed slots in one array, or in one memory-mapped file whose pages are given back after every use.

    The array is as large as the budget, but the system commits its pages only as they are written. Those of a file are
    allocated before: a page that the disk has no room for would kill the process.
    """

    __slots__ = ("__weakref__", "_allocated", "_file", "_folder", "_map", "_rows", "_size", "_used")

    def __init__(self, capacity: int, size: int, folder: Path | None) -> None:
        self._size = size
        self._used = 0
        self._folder = None if folder is None else _own_folder(self, folder)
        self._make(capacity)

    def _make(self, capacity: int) -> None:
        self._map: mmap.mmap | None = None
        self._file: IO[bytes] | None = None
        self._allocated = 0  # slots whose bytes the disk has
        if self._folder is None:
            self._rows = _promised(self._there(capacity, memory()), self._size)
            return
        try:
            capacity = self._there(capacity, shutil.disk_usage(self._folder).total)
            self._file = open(self._folder / "pixels.uint8", "w+b", buffering=0)  # noqa: SIM115, as long as the map
            self._file.truncate(capacity * self._size)
            self._map = mmap.mmap(self._file.fileno(), capacity * self._size)
        except OSError as error:
            raise InputError(f"cannot keep exemplars in {self._folder}: {error.strerror or error}") from error
        self._rows = np.frombuffer(self._map, dtype=np.uint8).reshape(capacity, self._size)

    def _there(self, capacity: int, room: int | None) -> int:
        """Slots of a budget for which there can be room: one that is meant as no limit at all has more."""
        return capacity if room is None else min(capacity, max(1, room // self._size))

    def _shrunk(self, kept: np.ndarray) -> np.ndarray:
        """Give written pages back that fewer pictures do not need; the slots of those that stay."""
        rows, capacity = self.packed(kept).numpy().reshape(-1, self._size), len(self._rows)
        self._rows, self._map, self._file = rows[:0], None, None  # the old array goes before its file is cut
        self._make(capacity)
        self._put(range(len(rows)), rows)
        return np.arange(len(rows))

    def replace(self, kept: np.ndarray, payload: Payload) -> tuple[np.ndarray, np.ndarray]:
        if len(kept) + len(payload) < self._used:
            kept = self._shrunk(kept)
        most = len(kept) + len(payload)  # beyond them no slot is needed, however many there may be
        if most > len(self._rows):
            raise InputError(
                f"{most:,} exemplars would take {human_bytes(most * self._size)}, more than there is in "
                f"{'memory' if self._folder is None else self._folder}: give the memory a smaller budget"
            )
        free = np.setdiff1d(np.arange(most), kept)[: len(payload)]
        self._put(free, payload)
        self._used = len(kept) + len(payload)
        return kept, free

    def read(self, slots: np.ndarray) -> np.ndarray:
        rows = self._rows[slots]
        self._release()
        return rows

    def packed(self, slots: np.ndarray) -> torch.Tensor:
        if self._folder is None:
            return torch.from_numpy(self.read(slots).reshape(-1))
        starts = range(0, len(slots), self._piece)
        return _spooled((self.read(slots[start : start + self._piece]) for start in starts), self._folder)

    def stored(self) -> StoredBytes:
        held = self._used * self._size
        return StoredBytes(ram=held) if self._map is None else StoredBytes(disk=held)

    @property
    def _piece(self) -> int:
        """Pictures that may be in memory at once where they are kept on disk."""
        return max(1, PIECE // self._size)

    def _put(self, slots: Sequence[int] | np.ndarray, payload: Payload) -> None:
        self._allocate(max(slots, default=-1) + 1)
        for count, (slot, picture) in enumerate(zip(slots, payload, strict=True), start=1):
            self._rows[slot] = picture
            if count % self._piece == 0 or count == len(payload):
                if self._map is not None:
                    self._map.flush()
                self._release()

    def _allocate(self, slots: int) -> None:
        """Have the disk's word for the first slots."""
        if self._file is None or slots <= self._allocated:
            return
        try:
            allocate(self._file.fileno(), self._allocated * self._size, int(slots) * self._size)
        except OSError as error:
            raise InputError(f"cannot keep exemplars in {self._folder}: {error.strerror or error}") from error
        self._allocated = int(slots)

    def _release(self) -> None:
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):  # where the system has it
            self._map.madvise(mmap.MADV_DONTNEED)


class _Packed:
    """Encoded pictures end to end in one array, in the order of their slots."""

    def __init__(self) -> None:
        self._bytes = np.zeros(0, dtype=np.uint8)
        self._ends = np.zeros(0, dtype=np.int64)

    def replace(self, kept: np.ndarray, payload: Payload) -> tuple[np.ndarray, np.ndarray]:
        parts = [*self.read(kept), *payload]
        self._bytes = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return np.arange(len(kept)), np.arange(len(kept), len(parts))

    def read(self, slots: np.ndarray) -> Payload:
        starts = np.concatenate([[0], self._ends])
        return [self._bytes[starts[slot] : starts[slot + 1]] for slot in slots]

    def packed(self, slots: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.uint8), *self.read(slots)]))

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=self._bytes.nbytes + self._ends.nbytes)


class _Files:
    """One real image file per picture: nothing of them is in RAM, and anyone can look at them."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self._folder = _own_folder(self, folder)
        self._codec = codec
        self._slots: np.ndarray = np.zeros(0, dtype=np.int64)
        self._next = 0
        self._held = 0

    def _path(self, slot: int | np.integer) -> Path:
        return self._folder / f"{slot:09d}.{self._codec}"

    def replace(self, kept: np.ndarray, payload: Payload) -> tuple[np.ndarray, np.ndarray]:
        try:
            for slot in np.setdiff1d(self._slots, kept):
                path = self._path(slot)
                self._held -= path.stat().st_size
                path.unlink()
            new = np.arange(self._next, self._next + len(payload))
            for slot, picture in zip(new, payload, strict=True):
                self._path(slot).write_bytes(picture.tobytes())
                self._held += len(picture)
        except OSError as error:
            raise InputError(f"cannot keep exemplars in {self._folder}: {error.strerror or error}") from error
        self._next += len(payload)
        self._slots = np.concatenate([kept, new])
        return kept, new

    def read(self, slots: np.ndarray) -> Payload:
        try:
            return [np.frombuffer(self._path(slot).read_bytes(), dtype=np.uint8) for slot in slots]
        except OSError as error:
            raise InputError(f"an exemplar file is gone: {error.filename}") from error

    def packed(self, slots: np.ndarray) -> torch.Tensor:
        return _spooled((self.read(slots[place : place + 1])[0] for place in range(len(slots))), self._folder)

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=self._slots.nbytes, disk=self._held)
