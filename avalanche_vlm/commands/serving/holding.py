"""The version that answers, and how another one takes its place while requests go on. Nothing of HTTP is known here."""

from __future__ import annotations

import datetime
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.artifacts import load
from avalanche_vlm.artifacts.layout import DESCRIPTION, VERSIONS, current_version, version_folder, version_names
from avalanche_vlm.benchmarks.context import cut_texts
from avalanche_vlm.benchmarks.sources.gathering import gathered
from avalanche_vlm.benchmarks.sources.images import image_of
from avalanche_vlm.commands.predict import as_json
from avalanche_vlm.commands.prepare import device_of
from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.pictures import prepared
from avalanche_vlm.models.predict import Predictor
from avalanche_vlm.models.reading_files import read_batches
from avalanche_vlm.models.retrieve import BestMatches, image_features, text_features
from avalanche_vlm.studies.living import list_versions
from avalanche_vlm.units import tell

AGAIN = 30.0
"""Seconds after which a version that could not be loaded is tried again."""

VersionStamp = tuple[Path, int, int, int]
"""A version's folder, and what its description is told from another one by without reading it."""


@dataclass(frozen=True)
class Held:
    """A version in memory.

    :param place: where it was read from.
    :param version: its name, such as ``v1``; None for a folder that holds one model and no versions.
    :param model: the model, in eval mode.
    :param searched: names and features ``[n, D]`` of the images that are searched, in the batches that they were
        encoded in.
    :param since: when it began to answer, in ISO 8601.
    """

    place: VersionStamp
    version: str | None
    model: VLM
    searched: list[tuple[list[str], torch.Tensor]]
    since: str


class Serving:
    """A folder's model, which answers with the version that counts.

    :param request: what ``serve`` was asked.
    :raises InputError: if the model cannot be loaded, or no image that is to be searched can be read.
    """

    def __init__(self, request: ServeRequest) -> None:
        self.request = request
        self.problem: str | None = None
        self._failed: tuple[VersionStamp | None, float] = (None, 0.0)
        self._one = threading.Lock()
        self.held = self._load(version_stamp(request.model))

    def look(self) -> bool:
        """See whether another version counts by now, and let it answer once it is loaded; until then, and if it cannot
        be, the one before does.

        :return: whether another one answers now.
        """
        with self._one:
            there: VersionStamp | None = None
            try:
                there = version_stamp(self.request.model)
                if there == self.held.place:
                    self.problem = None
                    return False
                if there == self._failed[0] and time.monotonic() < self._failed[1]:
                    return False
                self.held = self._load(there)
                self.problem = None
                return True
            # Whatever is wrong with the new version is no reason to stop answering with the old one.
            except Exception as error:
                self._failed = (there, time.monotonic() + AGAIN)
                self._say(" ".join(str(error).split()) or type(error).__name__)
                return False

    def predict(self, content: bytes, top_k: int, labels: list[str]) -> dict[str, Any]:
        """The classes of an image, as ``predict`` writes them.

        :param content: the bytes of an image file.
        :param top_k: classes that are given at most, at least 1.
        :param labels: names of the classes that compete; empty for the model's own.
        :raises InputError: for what is no image, and labels that are none.
        """
        held = self.held
        image = image_of(content, "the image", self.request.request_pixels)
        batch = prepared(image, held.model.transforms.eval, "the image")[None]
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            (found,) = Predictor(held.model, labels or None, top_k)(batch, ["the image"])
        told = as_json("", found, None)
        kept = {name: told[name] for name in ("classes", "module", "out_of_distribution")}
        return {"version": held.version, **kept, "remarks": [str(of.message) for of in remarks]}

    def search(self, text: str, top_k: int) -> dict[str, Any]:
        """The images that are most similar to a text, as ``retrieve`` writes them.

        :param text: the text that is searched for.
        :param top_k: images that are given at most, at least 1.
        :raises InputError: for a text that is empty, or longer than the model reads.
        """
        held = self.held
        if not text.strip():
            raise InputError("the text is empty")
        if cut_texts([text], held.model.tokenizer):
            length = held.model.tokenizer([text]).shape[1]
            raise InputError(f"the text is longer than the {length} tokens that the model reads")
        best = BestMatches(text_features(held.model, [text]), top_k)
        for names, features in held.searched:
            best.add(features, names)
        (matches,) = best.result()
        found = [{"image": match.item, "similarity": match.similarity} for match in matches]
        return {"version": held.version, "text": text, "matches": found}

    def health(self) -> dict[str, Any]:
        """How it goes: which version answers, and what keeps another from it."""
        held = self.held
        return {
            "status": "ok" if self.problem is None else "behind",
            "version": held.version,
            "since": held.since,
            "images": sum(len(names) for names, _ in held.searched),
            "problem": self.problem,
        }

    def versions(self) -> dict[str, Any]:
        """The versions of the model as ``versions`` lists them, without what is known of test samples."""
        held = self.held
        where = held.place[0]
        root = where.parent.parent if where.parent.name == VERSIONS else self.request.model
        listed = list_versions(root) if version_names(root) else []
        told = ("version", "made", "parent", "recipe", "promoted", "current", "scores")
        return {"answers": held.version, "versions": [{name: of[name] for name in told} for of in listed]}

    def _load(self, place: VersionStamp) -> Held:
        model = load(place[0], device=device_of(self.request.device))
        # A model that no image can be asked of is told now, and not to whoever asks.
        Predictor(model, None if model.label_space is not None else ["a", "b"])
        searched = self._encoded(model) if self.request.images else []
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return Held(place, version_name(place[0]), model, searched, since)

    def _encoded(self, model: VLM) -> list[tuple[list[str], torch.Tensor]]:
        asked = self.request
        find = partial(gathered, asked.images, asked.image_column, asked.image_root)
        found = []
        for batch in read_batches(find, model.transforms.eval, asked.batch_size, asked.workers):
            for problem in filter(None, batch.problems):
                tell(f"avalanche-vlm: {problem}", errors=True)
            names = [name for name, problem in zip(batch.names, batch.problems, strict=True) if problem is None]
            if names:
                found.append((names, image_features(model, batch.images, names)))
        if not found:
            raise InputError("--images: no image could be read")
        return found

    def _say(self, reason: str) -> None:
        if not self.request.quiet:
            tell(f"avalanche-vlm: {self.held.version or 'the model before'} goes on answering: {reason}", errors=True)
        folder = self.request.model
        for path in sorted({str(folder.resolve()), str(folder.absolute()), str(folder)}, key=len, reverse=True):
            reason = reason.replace(path, "DIR") if len(path) > 1 else reason
        self.problem = reason


def version_stamp(folder: Path) -> VersionStamp:
    """Where the version lies that counts now. No file is read.

    :param folder: the folder that was saved to, its ``model``, or one of its versions.
    :raises InputError: if no model is there.
    :raises OSError: if it goes at this moment.
    """
    where = version_folder(folder)
    told = (where / DESCRIPTION).stat()
    return where, told.st_ino, told.st_size, told.st_mtime_ns


def version_name(where: Path) -> str | None:
    """The name of a version; None for a folder that is none.

    :param where: folder with the version's files, or a copy of them in the place of a link.
    """
    return where.name if where.parent.name == VERSIONS else current_version(where.parent)
