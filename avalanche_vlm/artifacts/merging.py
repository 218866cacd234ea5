"""One module of a model as part of its weights, for programs that know plain models alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from avalanche_vlm.artifacts.open_clip_folder import towers_decide, write_open_clip
from avalanche_vlm.artifacts.shared_copies import check_module, shared_copy, with_one_module
from avalanche_vlm.compat.code import code_of_models
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.folders import LOCAL
from avalanche_vlm.models.modules.feature_adapter import AdapterPath
from avalanche_vlm.models.modules.feature_path import FeaturePath

_IMAGES = 8
"""Random images that a written model is compared on."""


def write_plain(model: VLM, folder: Path, module: str | None = None) -> list[str]:
    """Write a model as a folder of open_clip's, which open_clip alone opens (``local-dir:``), and open it.

    :param model: a model whose answers come from plain weights, or whose modules can become part of them.
    :param folder: a folder that is there.
    :param module: module that becomes part of the weights, of a model that chooses among modules.
    :return: sentences on what was written, and how far its features are from the model's.
    :raises InputError: in one sentence, if no plain weights answer as the model does.
    """
    if model.origin is None:
        raise InputError(
            f"{model.name} was built by hand, so nothing says what open_clip should build: make it with create_vlm"
        )
    plain = merged_copy(model, module)
    write_open_clip(folder, plain, model.origin.config)
    images, texts = largest_gaps(with_one_module(model, module), folder)
    what = "the model" if module is None else f"the model with the module {module!r}"
    return [f"features of images are at most {images:.1e} and of texts {texts:.1e} from those of {what}"]


def merged_copy(model: VLM, module: str | None = None) -> VLM:
    """A model of plain weights that answers as another one does.

    :param model: any model, which stays as it is.
    :param module: module that becomes part of the weights, of a model that chooses among modules.
    :raises InputError: in one sentence, if there are no such weights.
    """
    check_module(model, module)
    if model.class_head is not None:
        kind = type(model.class_head).__name__
        raise InputError(
            f"{model.name} answers by a class head, a {kind}, which open_clip's folders have no place for: use it with "
            "avalanche_vlm.load"
        )
    found = shared_copy(model)
    if found.routed is not None:
        pool = found.routed.pool
        if module is None and pool.names:
            raise InputError(
                f"{model.name} chooses one of its modules for each image, which no single weights do: name the one "
                f"that they should have (module, --module), of {', '.join(pool.names)}"
            )
        if module is not None:
            pool.merge(module)
        for name in list(pool.names):
            pool.drop(name)
        found.routed = None
    _merge_path(found)
    if not towers_decide(found):
        raise InputError(
            f"{model.name} answers with prompts or other parts between the layers, which no weights of the "
            "architecture do: use it with avalanche_vlm.load"
        )
    return found


def largest_gaps(model: VLM, folder: Path) -> tuple[float, float]:
    """The largest difference of the features of a model and of a folder that open_clip opens.

    :param model: a model that does not choose among modules.
    :param folder: a folder of open_clip's.
    :return: the largest difference of any number in the unit-length features of random images, and of texts.
    """
    import open_clip

    size = model.transforms.eval.size
    images = torch.randn(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)).to(model.device)
    texts = model.tokenize(["a", "a photo of a cat.", "two red stars", "3 dogs in the snow"])
    with code_of_models(), model.evaluating(), torch.random.fork_rng(devices=[]):
        opened = open_clip.create_model(
            f"{LOCAL}{folder}", precision=model.origin.precision if model.origin else "fp32"
        )
        other = VLM(opened, model.tokenizer, model.transforms, model.name).to(model.device).eval()
        gaps = (
            model.encode_image(images) - other.encode_image(images),
            model.encode_text(texts) - other.encode_text(texts),
        )
    return float(gaps[0].abs().max()), float(gaps[1].abs().max())


@torch.no_grad()
def _merge_path(model: VLM) -> None:
    """Put a linear adapter behind the image tower into the tower's projection."""
    path = model.image_path
    if isinstance(path, FeaturePath):
        model.image_path = None
    if not isinstance(path, AdapterPath) or path.adapter.down is not None:
        return
    projection = getattr(model.clip.visual, "proj", None)
    if not isinstance(projection, torch.Tensor):
        return
    # plain + |plain| U (plain / |plain|) = plain (1 + U^T), since the adapter is linear.
    change = projection.double() @ path.adapter.up.weight.double().T
    model.clip.visual.proj = nn.Parameter((projection.double() + change).to(projection.dtype), requires_grad=False)
    model.image_path = None
