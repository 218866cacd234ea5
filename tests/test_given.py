"""What stands in the place of a file ends in a sentence, at once: pipes, sockets, devices, folders, floods."""

from __future__ import annotations

import os
import signal
import socket
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from avalanche_vlm import _memory
from avalanche_vlm._content import file_digest
from avalanche_vlm._given import SETTINGS_BYTES, content_of
from avalanche_vlm.artifacts.description import read_description
from avalanche_vlm.artifacts.layout import DESCRIPTION
from avalanche_vlm.benchmarks.sources.images import check_ends, read_image
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import FORMATS, read_rows
from avalanche_vlm.benchmarks.sources.text import LONGEST_LINE, read_text
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.checkpoints import inspect_checkpoint, read_weights
from avalanche_vlm.models.model_settings import read_settings
from avalanche_vlm.models.torchscript import LARGEST_DESCRIPTION
from avalanche_vlm.storage.manifests import read_manifest
from avalanche_vlm.storage.tensor_files import TensorFile


def rows(path: Path) -> None:
    list(read_rows(path, Problems("raise")))


TABLES = [suffix for known in FORMATS if known.rows for suffix in known.suffixes]
READERS = {
    **{f"table{suffix}": rows for suffix in TABLES},
    "names.txt": read_text,
    "picture.png": read_image,
    "header.png": check_ends,
    "digest.png": file_digest,
    "open_clip_config.json": read_settings,
    **{f"weights{end}": inspect_checkpoint for end in (".safetensors", ".pt", ".npz")},
    "module.safetensors": read_weights,
    "state.safetensors": TensorFile,
    "state.json": read_manifest,
    DESCRIPTION: lambda path: read_description(path.parent),
}
"""What reads a file that somebody gave, by the file's name."""


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has room for a hundred characters
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path.name)
    os.chdir(here)


KINDS = {
    "a pipe": os.mkfifo,
    "a socket": bound,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.fixture(autouse=True)
def _in_seconds():
    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_told_at_once(tmp_path, name):
    for number, (kind, make) in enumerate(KINDS.items()):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        make(path)
        with pytest.raises(InputError, match=rf"{name}.* (is no regular file, but {kind}|is a folder|is no table)"):
            READERS[name](path)


def test_a_file_that_is_longer_than_its_kind_is_not_read(tmp_path):
    path = tmp_path / "names.txt"
    with path.open("wb") as file:
        file.truncate(SETTINGS_BYTES + 1)
    for read in (read_text, lambda path: content_of(path, SETTINGS_BYTES)):
        with pytest.raises(InputError, match=r"names.txt has 16.0 MiB or more, and such a file is read up to 16.0 MiB"):
            read(path)


@pytest.mark.parametrize(
    "suffix", sorted({*TABLES} - {".tar", ".parquet"})
)  # of which no more is read than is asked for
def test_a_table_that_memory_does_not_hold_is_refused_before_it_is_read(tmp_path, suffix):
    path = tmp_path / f"huge{suffix}"
    path.write_text("image,label\n")
    os.truncate(path, _memory.memory() // 2)
    with pytest.raises(InputError, match=rf"huge\{suffix} would take .* of memory or more, and this process may use"):
        rows(path)


def test_lines_without_an_end_are_no_rows(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"image,label\n{'a' * (LONGEST_LINE + 1)}\n")
    with pytest.raises(InputError, match=r"long.csv, line 2: it is longer than 16,777,216 characters"):
        rows(path)


def test_bytes_that_are_no_text_are_found_wherever_they_are(tmp_path):
    path = tmp_path / "late.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,label\n" + b"a.png,b\n" * 40_000 + b"\xe4.png,b\n")
    with pytest.raises(InputError, match=rf"late.csv is not UTF-8 text \(byte {path.read_bytes().index(0xE4)}\)"):
        rows(path)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(width: int, height: int, *further: bytes) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(height * (3 * width + 1)) if width * height < 1000 else b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(further) + pixels + chunk(b"IEND", b"")


def test_pictures_that_unpack_to_gigabytes_are_not_unpacked(tmp_path):
    flood = zlib.compress(bytes(100 * 2**20), 1)
    bombs = {
        "pixels.png": png(50_000, 50_000),
        "text.png": png(4, 4, chunk(b"zTXt", b"Comment\0\0" + flood)),
        "words.png": png(4, 4, chunk(b"iTXt", b"Comment\0\1\0en\0\0" + flood)),
        "profile.png": png(4, 4, chunk(b"iCCP", b"name\0\0" + flood)),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        try:
            assert read_image(tmp_path / name).size == (4, 4)  # a text or a profile may be left out
        except InputError as error:
            assert name in str(error)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "white.tif", compression="group4")
    for name in ("pixels.png", "white.tif"):
        with pytest.raises(InputError, match="more pixels than can be decoded safely"):
            read_image(tmp_path / name)


def test_checkpoints_that_unpack_to_gigabytes_are_not_unpacked(tmp_path, monkeypatch):
    for name in ("weights.npz", "weights.pt"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("weights/data.pkl", bytes(2**21))
        with monkeypatch.context() as small:
            small.setattr(_memory, "memory", lambda: 2**20)
            with pytest.raises(InputError, match=rf"{name}, unpacked, would take 2.0 MiB of memory or more"):
                inspect_checkpoint(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "script.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("script/code/a.py", "")
        archive.writestr("script/data.pkl", bytes(LARGEST_DESCRIPTION + 1))
    with pytest.raises(InputError, match=r"script.pt .*: its script/data.pkl has 67,108,865 bytes"):
        inspect_checkpoint(tmp_path / "script.pt")
