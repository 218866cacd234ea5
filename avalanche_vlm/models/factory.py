"""``create_vlm``: a VLM by name, from shipped weights, a file, a folder or the hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from avalanche_vlm._allocations import within_memory
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.compat.code import code_of_models
from avalanche_vlm.errors import InputError, naming
from avalanche_vlm.models.checkpoints import read_weights
from avalanche_vlm.models.fitness import check_finite, check_image_size
from avalanche_vlm.models.folders import CONFIG, HUB, LOCAL, Folder, open_folder
from avalanche_vlm.models.load_errors import check_packages, explain, mismatch
from avalanche_vlm.models.model_settings import TRUST, comes_with_code_of_others
from avalanche_vlm.models.names import refuse_unknown_name
from avalanche_vlm.models.origin import fresh_seed, open_clip_config, origin_of
from avalanche_vlm.models.precision import PRECISIONS, WeightPrecision
from avalanche_vlm.models.pretrained import (
    QUICK,
    Weights,
    listed_as_quick,
    weights_of_file,
    weights_of_tag,
)
from avalanche_vlm.models.transforms import Transforms
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.units import did_you_mean

_BY_SCHEMA = (HUB, LOCAL)


def create_vlm(
    name: str = "tiny",
    pretrained: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: WeightPrecision = "fp32",
    image_size: int | None = None,
    freeze: Sequence[str] = ("scale",),
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
) -> VLM:
    """A vision-language model with its tokenizer and transforms.

    Weights that were trained with QuickGELU get an architecture with it: what was built stands in the model's ``name``
    (``create_vlm("ViT-B-16", "openai").name`` is ``"ViT-B-16-quickgelu/openai"``). Nothing that is loaded can execute
    code, unless you say so.

    :param name: ``"tiny"`` (shipped with its weights), any open_clip architecture (``"ViT-B-16"``,
        ``"ViT-B-16-SigLIP"``, ...), a hub model (``"hf-hub:org/model"``) or a folder in open_clip's format
        (``"local-dir:/path"``).
    :param pretrained: an open_clip tag (``"openai"``, ``"laion2b_s34b_b88k"``), a checkpoint file (safetensors, a state
        dict of ``torch.save``, or a TorchScript archive as OpenAI published them), or None: shipped weights for
        ``"tiny"``, the weights that the name stands for with ``hf-hub:`` and ``local-dir:``, random weights otherwise.
        ``"random"`` asks for random weights by name. A file of unknown origin is taken as trained with the activation
        that the architecture's name says, with a warning where there are weights of both kinds.
    :param device: where the model lives.
    :param precision: one of :data:`~avalanche_vlm.models.precision.PRECISIONS`. Features and logits are float32 in all
        of them. Keep ``"fp32"`` for training; AMP is the strategy's.
    :param image_size: side of the input in pixels, None for the architecture's own; positional embeddings of the
        weights are resized as open_clip does, and the transforms make images of this size.
    :param freeze: towers to freeze, of ``image``, ``text``, ``scale``.
    :param cache_dir: where open_clip keeps downloads.
    :param trust_remote_code: whether Python files that come with the model's tokenizer or text tower of Hugging Face's
        may run, with all that you may do on this machine. No file can say it for you, a saved model's neither: such a
        model counts as built by your own hands, and :func:`~avalanche_vlm.artifacts.load` wants it given as ``base``.
    :raises InputError: for an unknown name or tag, a missing or unreadable file, weights of another architecture or
        with a number that is not finite, an image size that leaves pixels over beside whole patches, a package that
        the model's tokenizer needs, settings or files that would run code, ``trust_remote_code`` where there is no
        such code, and when weights, a tokenizer or other files are neither here nor to be had from the network.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not {precision!r}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise InputError(f"image_size is a number of pixels, not {image_size!r}")
    seed = fresh_seed()
    with nullcontext() if image_size is None else within_memory(f"{name} for images of {image_size} pixels"):
        if name == "tiny":
            vlm, config = _create_tiny(pretrained, precision, image_size)
        else:
            vlm, config = _create_open_clip(name, pretrained, precision, image_size, cache_dir, trust_remote_code)
    if trust_remote_code and not comes_with_code_of_others(config["model_cfg"]):
        raise InputError(f"{name} has no tokenizer or text tower that code could come with: leave {TRUST} out")
    origin = origin_of(name, pretrained, precision, image_size, freeze, config)
    if origin.is_random:
        vlm.weights_seed = torch.initial_seed()
        origin = replace(origin, seed=seed)
    vlm.origin = None if trust_remote_code else origin
    if image_size is not None:
        check_image_size(vlm.clip, name, image_size)
    check_finite(vlm.clip, name if pretrained is None else f"{name} ({pretrained})")
    settings = {"image_size": image_size, "precision": None if precision == "fp32" else precision}
    said = ", ".join(f"{setting}={value}" for setting, value in settings.items() if value is not None)
    vlm.name += f"[{said}]" if said else ""
    vlm.unfreeze(*vlm.frozen).freeze(*freeze)
    return vlm.to(device)


def from_open_clip(
    clip: nn.Module,
    tokenizer: Callable[[Sequence[str]], torch.Tensor],
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    name: str = "custom",
) -> VLM:
    """Wrap a model that you built yourself.

    :param clip: has open_clip's ``encode_image``, ``encode_text``, ``logit_scale``.
    :param tokenizer: list of texts to token ids ``[N, L]``.
    :param image_size: side of the input in pixels.
    :param mean: per-channel mean of the normalisation.
    :param std: per-channel standard deviation.
    """
    transform = ImageTransform(image_size, tuple(mean), tuple(std))
    return VLM(clip, tokenizer, Transforms(transform, transform), name)


def _create_tiny(pretrained: str | Path | None, precision: str, image_size: int | None) -> tuple[VLM, dict[str, Any]]:
    """The model, and what open_clip's configuration of it would be."""
    from avalanche_vlm.models import tiny

    clip, tokenizer = tiny.build_tiny(image_size or tiny.IMAGE_SIZE, precision)
    if pretrained != "random":
        _load_tiny(clip, Path(pretrained) if pretrained else tiny.WEIGHTS)
    size = image_size or tiny.IMAGE_SIZE
    vlm = from_open_clip(clip, tokenizer, image_size=size, mean=tiny.MEAN, std=tiny.STD, name="tiny")
    prepared = {"size": size, "mean": list(tiny.MEAN), "std": list(tiny.STD)}
    return vlm, {"model_cfg": tiny.architecture(size), "preprocess_cfg": prepared}


def _load_tiny(clip: nn.Module, path: Path) -> None:
    from open_clip.model import resize_pos_embed

    weights = read_weights(path)
    resize_pos_embed(weights, clip)
    try:
        clip.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} holds weights of another architecture: {mismatch(error)}") from error


def _create_open_clip(
    name: str,
    pretrained: str | Path | None,
    precision: str,
    image_size: int | None,
    cache_dir: str | None,
    trusted: bool,
) -> tuple[VLM, dict[str, Any]]:
    """The model, and open_clip's configuration of it."""
    import open_clip

    by_schema = name.startswith(_BY_SCHEMA)
    tag = None if pretrained in (None, "random") else str(pretrained)
    if by_schema and tag is not None:
        raise InputError(f"{name} brings its own weights, so pretrained is None or 'random', not {tag!r}")
    if not by_schema:
        _check_name(open_clip, name, tag)
    check_packages(name)
    sought = "weights" if tag or (by_schema and pretrained != "random") else "files"
    try:
        brought = open_folder(name, cache_dir, pretrained != "random", trusted) if by_schema else None
        weights = _weights(open_clip, name, tag, cache_dir)
        if weights is not None:
            sought = "files"
        if brought:
            told = brought.weights.quick_gelu if brought.weights else None
            quick = listed_as_quick(name) if told is None else told
        else:
            quick = weights is not None and weights.quick_gelu
        with code_of_models(trusted), _readable(name, weights, brought) as (source, path):
            clip, train, evaluate = open_clip.create_model_and_transforms(
                source,
                pretrained=path,
                load_weights=pretrained != "random",
                precision=precision,
                force_quick_gelu=quick,
                force_image_size=image_size,
                cache_dir=cache_dir,
                # A folder or hub model without weights would otherwise come with random ones, and a log message.
                require_pretrained=by_schema and pretrained != "random",
                **(weights.preprocessing if weights else {}),
            )
            sought = "tokenizer"
            tokenizer = open_clip.get_tokenizer(name, cache_dir=cache_dir)
    except InputError:
        raise
    except Exception as error:
        raise InputError(explain(name, tag, image_size, error, sought)) from error
    config = open_clip.get_model_preprocess_cfg(clip)
    size = config["size"][0] if isinstance(config["size"], (tuple, list)) else config["size"]
    built = _with_quick(name) if quick and not by_schema else name
    if name.startswith(LOCAL):
        built = LOCAL + Path(name.removeprefix(LOCAL)).resolve().name
    architecture = brought.settings["model_cfg"] if brought else open_clip.get_model_config(name)
    with naming(name):
        prepared = [ImageTransform(size, config["mean"], config["std"], resize=t) for t in (train, evaluate)]
    vlm = VLM(
        clip,
        tokenizer,
        Transforms(*prepared),
        # Of a folder or file the name alone: where it lies decides nothing, and what it holds is told by its content.
        built if tag is None else f"{built}/{Path(tag).name}",
    )
    return vlm, open_clip_config(clip, architecture, quick, image_size)


def _weights(open_clip: ModuleType, name: str, tag: str | None, cache_dir: str | None) -> Weights | None:
    if tag is None:
        return None
    if tag in open_clip.list_pretrained_tags_by_model(name):
        return weights_of_tag(name, tag, cache_dir)
    return weights_of_file(name, Path(tag))


def _with_quick(name: str) -> str:
    from open_clip import factory

    return name if (factory.get_model_config(name) or {}).get("quick_gelu") else name + QUICK


@contextmanager
def _readable(name: str, weights: Weights | None, brought: Folder | None) -> Iterator[tuple[str, str | None]]:
    """Name and file to give open_clip, of which it opens no pickle but one that was written here."""
    checkpoint = weights.checkpoint if weights else brought.weights if brought else None
    if checkpoint is None or not checkpoint.tensors:
        yield name, str(checkpoint.path) if weights and checkpoint else None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(checkpoint.tensors, path)
        if brought is None:
            yield name, str(path)
        else:
            shutil.copy(brought.config, Path(folder) / CONFIG)
            yield f"{LOCAL}{folder}", None


def _check_name(open_clip: ModuleType, name: str, tag: str | None) -> None:
    refuse_unknown_name(name, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is not None and tag not in tags and not Path(tag).exists():
        if "/" in tag or "." in tag:
            raise InputError(f"there is no checkpoint file at {tag}")
        near = did_you_mean(tag, tags)
        raise InputError(f"{name} has no pretrained weights {tag!r}{near}; it has {', '.join(tags) or 'none'}")
