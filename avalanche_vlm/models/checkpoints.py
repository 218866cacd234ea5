"""Checkpoint files: what a file is, what it says of the model it belongs to, and plain words for what is none."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from avalanche_vlm._given import open_regular
from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.torchscript import Refused, is_torchscript, read_torchscript

OPENAI_ENTRIES = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Three numbers beside the weights that only OpenAI's own checkpoints have."""

_LONGEST_NAME = 1000
_PICKLES = 5
"""Pickles in a file of before torch's zip archives, one behind the other."""
_DAMAGED = (ValueError, OSError, EOFError, LookupError, StopIteration, RuntimeError, zipfile.BadZipFile, zlib.error)

_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights that was looked at.

    :param path: where it is.
    :param names: names of its tensors; empty where only open_clip can tell (numpy's archives).
    :param quick_gelu: whether the model was trained with QuickGELU, None if the file does not say.
    :param tensors: the tensors of a file that holds a pickle, which nobody but this module opens (open_clip reads some
        with ``weights_only=False`` under older versions of torch); empty for files that cannot hold code.
    """

    path: Path
    names: frozenset[str]
    quick_gelu: bool | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


def inspect_checkpoint(path: Path) -> Checkpoint:
    """Look at a checkpoint file; nothing in it is executed.

    :param path: a safetensors file, a state dict that ``torch.save`` wrote, a TorchScript archive or a numpy archive.
    :raises InputError: in one sentence with the cause, if it is none of these or damaged.
    """
    check_is_checkpoint(path)
    _refuse_bomb(path)
    if path.suffix in (".npz", ".npy"):
        return Checkpoint(path, frozenset())
    if path.suffix == ".safetensors":
        return Checkpoint(path, frozenset(_safetensor_names(path)))
    if is_torchscript(path):
        return _inspect_archive(path)
    tensors = read_pickled(path)
    openai = tensors.keys() >= OPENAI_ENTRIES
    weights = {name: tensor for name, tensor in tensors.items() if name not in OPENAI_ENTRIES}
    return Checkpoint(path, frozenset(weights), True if openai else None, weights)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, on the CPU.

    :param path: a safetensors file, a state dict that ``torch.save`` wrote, or a TorchScript archive.
    :raises InputError: in one sentence with the cause, if it is none of these or damaged.
    """
    check_is_checkpoint(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            # A side of 2^63 is one to safetensors, if another is 0, and none to torch, which tells of its own inside.
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} is not a readable safetensors file ({why})") from error
    return _inspect_archive(path).tensors if is_torchscript(path) else read_pickled(path)


def check_is_checkpoint(path: Path) -> None:
    """Recognise what is often found in the place of a checkpoint.

    :param path: where a file of weights should be.
    :raises InputError: if there is nothing, a folder, no regular file, an empty one, a Git LFS pointer, a web page or
        other text.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a checkpoint file: name the file in it, or write local-dir:{path}")
    try:
        with open_regular(path) as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint file at {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise InputError(f"{path} is empty: a download or copy of the checkpoint has failed")
    if head.startswith(_LFS):
        raise InputError(
            f"{path} is a Git LFS pointer in the place of a checkpoint: run git lfs pull in its repository"
        )
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head|!--)", head, re.IGNORECASE):
        raise InputError(
            f"{path} is a web page in the place of a checkpoint: what was downloaded is an answer of the site, "
            "not the file"
        )
    if not re.search(rb"[^\t\n\r\x20-\x7e]", head):
        raise InputError(f"{path} is a text file, not a checkpoint")


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file that ``torch.save`` wrote, without running code that it may hold.

    :param path: file that exists.
    :raises InputError: if the file is damaged, wants to run code, or holds no tensors by name.
    """
    _refuse_long_names(path)
    try:
        # Memory-mapped, the tensors cost nothing until they are used; the format before zip files cannot be.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise InputError(
                f"{path} is a pickle that asks for {wanted[1]}, which could run code, and nothing that is loaded here "
                "may: where you trust the file, save its state dict as safetensors"
            ) from error
        raise InputError(
            f"{path} is not a checkpoint, or is damaged: it cannot be read without running code"
        ) from error
    except Exception as error:  # torch lets RuntimeError, EOFError, KeyError, TypeError and others out of damaged files
        raise InputError(f"{path} is truncated or damaged: {_first_line(error)}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]  # open_clip's own checkpoints have the optimizer beside it
    tensors = {n: t for n, t in found.items() if isinstance(t, torch.Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise InputError(f"{path} holds no weights: a checkpoint is a state dict, names with tensors")
    return tensors


def _refuse_long_names(path: Path) -> None:
    """Torch looks for patterns in its own sentence on what a pickle may not ask for, in a time that grows with the
    square of its name: seconds for one of 16,000 letters."""
    for name in _asked_for(path):
        if len(name) > _LONGEST_NAME:
            raise InputError(f"{path} is a pickle that asks for a class whose name has {len(name)} letters: damaged")


def _asked_for(path: Path) -> Iterator[str]:
    """The names of what the pickles of a file ask for, up to where they are damaged: torch says what is."""
    with contextlib.suppress(*_DAMAGED), contextlib.ExitStack() as opened:
        file: IO[bytes] = opened.enter_context(open_regular(path))
        if zipfile.is_zipfile(file):
            archive = opened.enter_context(zipfile.ZipFile(file))
            inside = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            file = opened.enter_context(archive.open(inside))
        else:
            file.seek(0)
        for _ in range(_PICKLES):
            yield from (str(of) for code, of, _ in pickletools.genops(file) if code.name in ("GLOBAL", "INST"))


def _refuse_bomb(path: Path) -> None:
    """What an archive holds may be packed a thousand times as small."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # of many kinds, for a damaged end or list of names
        raise InputError(f"{path} is truncated or damaged: {_first_line(error)}") from error
    refuse_beyond(size, f"the checkpoint {path}, unpacked,")


def _safetensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error


def _inspect_archive(path: Path) -> Checkpoint:
    try:
        archive = read_torchscript(path)
    except Refused as error:
        raise InputError(f"{path} is a TorchScript archive that holds more than weights: {error}") from error
    except Exception as error:  # zipfile, pickle and torch each have their own for damaged files
        raise InputError(f"{path} is a damaged TorchScript archive: {_first_line(error)}") from error
    if not archive.tensors:
        raise InputError(f"{path} is a TorchScript archive without weights")
    quick: bool | None = "QuickGELU" in archive.classes or bool(set(archive.tensors) >= OPENAI_ENTRIES)
    if not quick:
        quick = False if "GELU" in archive.classes else None
    tensors = {name: t for name, t in archive.tensors.items() if name not in OPENAI_ENTRIES}
    return Checkpoint(path, frozenset(tensors), quick, tensors)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
