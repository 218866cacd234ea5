"""A model as programs of ``torch.export``: towers and head, each checked against the model itself.

Whoever runs a program needs torch alone. Programs are written here and never read.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.artifacts.shared_copies import one_tower, with_one_module
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.competing import ALL_CLASSES, MASKED

INDEX = "programs.json"
"""File that says what the programs take, give and stand for."""

BATCHES = (1, 2, 5)
"""Sizes of the batches that programs are checked with."""

MOST, MOST_OF_HALF = 1e-4, 2e-2
"""How far a number of a program's may be from the model's: relative to the largest that there is, which is at most 1 in
a feature, for weights in single and in half precision."""


def write_programs(model: VLM, folder: Path, module: str | None = None) -> list[str]:
    """Write ``image.pt2``, ``text.pt2`` and ``head.pt2``, as many of them as there can be, and ``programs.json``.

    :param model: any model, trained or not.
    :param folder: a folder that is there.
    :param module: module that answers every image, of a model that chooses among modules; None for the towers without.
    :return: sentences on what was written and what was left out, and why.
    :raises InputError: if no tower can be exported, or a program does not give what the model gives.
    """
    plain = with_one_module(model, module).to("cpu")
    left_out = _left_out(model, module)
    programs: dict[str, Any] = {}
    for part in [_image(plain), _text(plain), *([] if "head" in left_out else [_head(plain)])]:
        try:
            programs[part.name] = _written(part, folder / f"{part.name}.pt2", _most(plain))
        except _NoProgram as reason:
            left_out[part.name] = str(reason)
    if not programs.keys() & {"image", "text"}:
        raise InputError(f"neither tower of {model.name} can be exported: {left_out['image']}")
    space = model.label_space
    index = {
        "format": 1,
        "model": model.name,
        "torch": torch.__version__,
        "module": module,
        "programs": programs,
        "left_out": left_out,
        "images": {
            "size": plain.transforms.eval.size,
            "mean": list(plain.transforms.eval.mean),
            "std": list(plain.transforms.eval.std),
            "transform": plain.transforms.eval.describe(),
        },
        "label_space": None if space is None else space.as_json(),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    written = [
        f"{facts['file']}: {facts['takes']['name']} to {facts['gives']['name']}, at most "
        f"{facts['greatest_difference']:.1e} from the model"
        for facts in programs.values()
    ]
    return [*written, *(f"no program for {name}: {why}" for name, why in left_out.items())]


class _NoProgram(Exception):
    """Why there is no program."""


@dataclass(frozen=True)
class _Part:
    """What becomes a program.

    :param name: name of the program.
    :param program: what is exported, with one input.
    :param expected: what it must give for an input.
    :param example: an input of a number of rows.
    :param takes: name of its input, and sizes of the input's dimensions.
    :param gives: name of its output, and sizes of the dimensions.
    """

    name: str
    program: nn.Module
    expected: Callable[[torch.Tensor], torch.Tensor]
    example: Callable[[int], torch.Tensor]
    takes: dict[str, Any]
    gives: dict[str, Any]


def _image(model: VLM) -> _Part:
    size = model.transforms.eval.size
    return _Part(
        "image",
        _ImageTower(one_tower(model, "image")),
        model.encode_image,
        lambda n: torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n)),
        {"name": "images", "shape": ["batch", 3, size, size]},
        {"name": "features", "shape": ["batch", model.width]},
    )


def _text(model: VLM) -> _Part:
    def texts(n: int) -> torch.Tensor:
        drawn = random.Random(n)
        words = ["a", "red", "star", "photo", "of", "two", "cats", "3"]
        return model.tokenizer([" ".join(drawn.choices(words, k=drawn.randint(1, 6))) for _ in range(n)])

    return _Part(
        "text",
        _TextTower(one_tower(model, "text")),
        model.encode_text,
        texts,
        {"name": "tokens", "shape": ["batch", texts(1).shape[1]]},
        {"name": "features", "shape": ["batch", model.width]},
    )


def _head(model: VLM) -> _Part:
    with torch.no_grad():
        competes = model.competing.at_test(ALL_CLASSES).cpu()
        (classes,) = competes.nonzero(as_tuple=True)
        head = _Head(model.prompt_features(classes), model.scale, model.bias, competes)
    return _Part(
        "head",
        head,
        model.classify,
        lambda n: F.normalize(torch.randn(n, model.width, generator=torch.Generator().manual_seed(n)), dim=1),
        {"name": "features", "shape": ["batch", model.width]},
        {"name": "logits", "shape": ["batch", len(competes)], "classes_that_compete": classes.tolist()},
    )


class _ImageTower(nn.Module):
    def __init__(self, model: VLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(images)


class _TextTower(nn.Module):
    def __init__(self, model: VLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(tokens)


class _Head(nn.Module):
    """Logits of unit-length features, with the classes' text features as they are."""

    texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    competes: torch.Tensor
    places: torch.Tensor

    def __init__(
        self, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, competes: torch.Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("texts", texts.detach().float().clone())
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("bias", torch.zeros(()) if bias is None else bias.detach().clone())
        self.register_buffer("competes", competes)
        # Of a class that does not compete the number does not matter, as long as there is one.
        self.register_buffer("places", (competes.cumsum(0) - 1).clamp_min(0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.scale * features @ self.texts.T + self.bias
        return torch.where(self.competes, logits[:, self.places], MASKED)


def _left_out(model: VLM, module: str | None) -> dict[str, str]:
    """Why some programs cannot be, by name."""
    found: dict[str, str] = {}
    if model.routed is not None:
        said = f"with the module {module!r}" if module is not None else "without modules"
        found["routing"] = (
            "which module answers depends on the image, and a program has no such branches, so these are programs of "
            f"the towers {said}"
        )
    if model.class_head is not None:
        found["head"] = (
            f"its class head, a {type(model.class_head).__name__}, decides by the values of a sample whether it "
            "answers, and a program has no such branches"
        )
    elif model.label_space is None:
        found["head"] = "the model has no label space"
    return found


def _most(model: VLM) -> float:
    return (
        MOST
        if all(p.dtype != torch.float16 and p.dtype != torch.bfloat16 for p in model.parameters())
        else MOST_OF_HALF
    )


def _written(part: _Part, path: Path, most: float) -> dict[str, Any]:
    """Export, check and write one program; what the index says of it."""
    example = part.example(2)
    with torch.no_grad(), _silent():
        try:
            program = torch.export.export(
                part.program, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
        except Exception as error:  # every kind of error that tracing a model's Python can come to
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise _NoProgram(f"torch.export cannot follow it ({first.strip()[:200]})") from error
        run, differences, largest = program.module(), [], 1.0
        for n in BATCHES:
            x = part.example(n)
            expected, found = part.expected(x), run(x)
            kept = expected != MASKED
            if found.shape != expected.shape or not torch.equal(kept, found != MASKED):
                raise InputError(f"the program of {part.name} gives something else than the model: nothing is written")
            differences.append(float((found - expected)[kept].abs().max()))
            largest = max(largest, float(expected[kept].abs().max()))
    greatest = max(differences)
    if not greatest <= most * largest:
        raise InputError(
            f"the program of {part.name} is up to {greatest:.2e} from the model, more than {most * largest:.0e}: "
            "nothing is written"
        )
    torch.export.save(program, str(path))
    return {
        "file": path.name,
        "takes": {**part.takes, "dtype": str(example.dtype).removeprefix("torch.")},
        "gives": {**part.gives, "dtype": str(expected.dtype).removeprefix("torch.")},
        "greatest_difference": greatest,
        "batches_checked": list(BATCHES),
    }


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch logs of a graph that it cannot finish: the error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
