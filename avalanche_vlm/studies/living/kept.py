"""Test samples that are kept with a model, by consent: what later versions are measured on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace, SpaceRecord
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import VLMBenchmark, size_of
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.storage.sealed_tensors import read_sealed, seal_of_tensors, write_sealed
from avalanche_vlm.studies.living.answers import TestSet
from avalanche_vlm.studies.living.records import Kept
from avalanche_vlm.training.data import labelled

TESTS = "tests"
"""Folder of the kept samples beside the versions, which share them: a file for each set, never written again."""

SPACE: Document[SpaceRecord] = Document("the classes of kept test samples", SpaceRecord)

KEPT_BY_DEFAULT = 200
"""Test samples of every experience, and of every held-out set, that are kept unless something else is said."""


def keep_tests(
    folder: str | Path,
    benchmark: VLMBenchmark,
    transform: ImageTransform,
    samples: int,
    *,
    owner: str,
    experiences: Sequence[int] | None = None,
) -> tuple[list[Kept], list[Kept]]:
    """Keep test samples of experiences, and of the benchmark's held-out sets: pictures in 8 bits as the model's
    evaluation transform leaves them, class ids or tokens of captions.

    :param folder: the folder that the model is saved to.
    :param benchmark: stream with test sets and held-out sets.
    :param transform: the model's transform of evaluation, which is undone for what is kept.
    :param samples: most samples of a set that are kept, drawn at random; 0 for none.
    :param owner: name of the version that has learned the experiences.
    :param experiences: which experiences, by their numbers; None for all.
    :return: what was kept of the experiences, and of the held-out sets; with 0 samples their names alone.
    :raises InputError: if the samples cannot be written.
    """
    numbers = range(len(benchmark.test_stream)) if experiences is None else experiences
    found: tuple[list[Kept], list[Kept]] = ([], [])
    for number in numbers:
        data = benchmark.test_stream[number].dataset.eval()
        asked = TestSet(benchmark.task_names[number], data)
        found[0].append(_keep(Path(folder), asked, transform, samples, f"{owner}-{number + 1}"))
    for held_out in benchmark.held_out:
        asked = TestSet(held_out.name, held_out.dataset, held_out.label_space)
        found[1].append(_keep(Path(folder), asked, transform, samples, f"{owner}-held-out-{file_name(held_out.name)}"))
    return found


def kept_sets(folder: str | Path, kept: Sequence[Kept], transform: ImageTransform) -> Iterator[TestSet]:
    """The sets of which samples were kept, to be read as the model reads.

    :param folder: the folder that the model was saved to.
    :param kept: what was kept.
    :param transform: the model's transform of evaluation.
    :raises InputError: if a file is missing or damaged, or is not the one that was kept.
    """
    for of in kept:
        if of.file is None:
            continue
        path = Path(folder, TESTS, of.file)
        if not path.is_file():
            raise InputError(f"the test samples of {of.name} are missing: there is no file at {path}")
        tensors, about = read_sealed(path), path.with_suffix(".json")
        space = LabelSpace.from_json(SPACE.read(about), about) if about.exists() else None
        _check_samples(path, tensors, of.samples, transform.size, None if space is None else len(space))
        for file, there, noted in ((path, seal_of_tensors(tensors), of.content), (about, _digest(space), of.classes)):
            if there is None and noted is not None:
                raise InputError(
                    f"the classes of the test samples of {of.name} are missing: there is no file at {file}"
                )
            if there != noted:
                raise InputError(f"{file} is not what was kept of {of.name}: its digest is another")
        yield TestSet(of.name, KeptSamples(tensors, transform), space)


def _digest(space: LabelSpace | None) -> str | None:
    return None if space is None else str(SPACE.sealed(space.as_json())["sha256"])


def _check_samples(
    path: Path, tensors: Mapping[str, torch.Tensor], samples: int, size: int, classes: int | None
) -> None:
    """Refuse samples of other types and shapes than :func:`_keep` writes, and class ids that are none."""
    forms = {"pixels": (torch.uint8, (samples, 3, size, size)), "y": (torch.int64, (samples,))}
    forms["task"] = forms["y"]
    for name in [*forms, *(name for name in tensors if name not in (*forms, "tokens"))]:
        tensor = tensors.get(name)
        if tensor is None or name not in forms:
            raise InputError(f"{path} is damaged: it has {'no ' if tensor is None else ''}{name}")
        if (tensor.dtype, tuple(tensor.shape)) != forms[name]:
            raise InputError(f"{path} is damaged: {name} is {tensor.dtype} of {list(tensor.shape)}, not {forms[name]}")
    tokens, y = tensors.get("tokens"), tensors["y"]
    if tokens is not None and (tokens.is_floating_point() or tokens.ndim != 2 or len(tokens) != samples):
        raise InputError(f"{path} is damaged: tokens are {tokens.dtype} of {list(tokens.shape)}")
    if samples and (int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes)):
        raise InputError(f"{path} is damaged: y has a class that there is not")


class KeptSamples(Dataset):
    """Samples as they were kept.

    :param tensors: ``pixels``, uint8 ``[N, 3, H, W]``; ``y`` and ``task`` ``[N]``; of pairs ``tokens`` ``[N, L]``.
    :param transform: transform of which the normalisation is applied.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], transform: ImageTransform) -> None:
        self.tensors, self.transform = dict(tensors), transform

    def __len__(self) -> int:
        return len(self.tensors["y"])

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        image: Any = self.transform.from_uint8(self.tensors["pixels"][index])
        if "tokens" in self.tensors:
            image = ImageText(image, self.tensors["tokens"][index])
        return image, int(self.tensors["y"][index]), int(self.tensors["task"][index])


def _keep(folder: Path, asked: TestSet, transform: ImageTransform, samples: int, name: str) -> Kept:
    there = size_of(asked.dataset)
    if samples == 0 or there == 0:
        return Kept(name=asked.name)
    chosen = torch.randperm(there, generator=torch.Generator().manual_seed(0))[:samples].sort().values.tolist()
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in ordered_batches(Subset(asked.dataset, chosen), 256):
        x, y, task = labelled(batch)
        columns = {"pixels": transform.to_uint8(x.image if isinstance(x, ImageText) else x), "y": y, "task": task}
        if isinstance(x, ImageText):
            columns["tokens"] = x.tokens
        for column, values in columns.items():
            parts.setdefault(column, []).append(values)
    path = folder / TESTS / f"{name}.safetensors"
    tensors = {column: torch.cat(values) for column, values in parts.items()}
    write_sealed(path, tensors)
    if asked.label_space is not None:
        SPACE.write(path.with_suffix(".json"), asked.label_space.as_json())
    content, classes = seal_of_tensors(tensors), _digest(asked.label_space)
    return Kept(name=asked.name, samples=len(chosen), file=path.name, content=content, classes=classes)


def file_name(name: str) -> str:
    """What a set's files are called: its name where every disk takes it, and otherwise one that no other set has.

    :param name: name of the set.

    >>> file_name("captions"), file_name("a b") == file_name("a/b"), len(file_name("x" * 300))
    ('captions', False, 69)
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60]
    return (
        plain
        if plain == name
        else f"{plain}-{hashlib.blake2b(name.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"
    )
