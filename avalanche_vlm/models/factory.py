"""``create_vlm``: a VLM by name, from shipped weights, a file, a folder or the hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.transforms import Transforms
from avalanche_vlm.models.vlm import VLM

_BY_SCHEMA = ("hf-hub:", "local-dir:")
"""Beginnings of names of models that bring their own weights."""


def create_vlm(
    name: str = "tiny",
    pretrained: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    freeze: Sequence[str] = ("scale",),
    cache_dir: str | None = None,
) -> VLM:
    """A vision-language model with its tokenizer and transforms.

    :param name: ``"tiny"`` (shipped with its weights), any open_clip architecture (``"ViT-B-16"``,
        ``"ViT-B-16-SigLIP"``, ...), a hub model (``"hf-hub:org/model"``) or a folder in open_clip's format
        (``"local-dir:/path"``).
    :param pretrained: an open_clip tag (``"openai"``, ``"laion2b_s34b_b88k"``), a checkpoint file, or None: shipped
        weights for ``"tiny"``, the weights that the name stands for with ``hf-hub:`` and ``local-dir:``, random
        weights otherwise. ``"random"`` asks for random weights by name.
    :param device: where the model lives.
    :param precision: open_clip's name of the weights' precision. Keep ``"fp32"`` for training; AMP is the strategy's.
    :param freeze: towers to freeze, of ``image``, ``text``, ``scale``.
    :param cache_dir: where open_clip keeps downloads.
    :raises InputError: for an unknown name or tag, a missing or unreadable file, weights of another architecture, and
        when weights are neither here nor to be had from the network.
    """
    if name == "tiny" and precision != "fp32":
        raise InputError(f"the tiny model comes in fp32, not {precision!r}: for bf16 training use the strategy's amp")
    vlm = _create_tiny(pretrained) if name == "tiny" else _create_open_clip(name, pretrained, precision, cache_dir)
    if pretrained == "random" or (pretrained is None and name != "tiny" and not name.startswith(_BY_SCHEMA)):
        vlm.weights_seed = torch.initial_seed()
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


def _create_tiny(pretrained: str | Path | None) -> VLM:
    from avalanche_vlm.models import tiny

    clip, tokenizer = tiny.build_tiny()
    if pretrained != "random":
        _load_file(clip, Path(pretrained) if pretrained else tiny.WEIGHTS)
    return from_open_clip(clip, tokenizer, image_size=tiny.IMAGE_SIZE, mean=tiny.MEAN, std=tiny.STD, name="tiny")


def _load_file(clip: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"there is no checkpoint file at {path}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error
    try:
        clip.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} holds weights of another architecture") from error


def _create_open_clip(name: str, pretrained: str | Path | None, precision: str, cache_dir: str | None) -> VLM:
    import open_clip

    by_schema = name.startswith(_BY_SCHEMA)
    tag = None if pretrained in (None, "random") else str(pretrained)
    if by_schema and tag is not None:
        raise InputError(f"{name} brings its own weights, so pretrained is None or 'random', not {tag!r}")
    if not by_schema:
        _check_name(open_clip, name, tag)
    elif name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")))
    try:
        with warnings.catch_warnings():
            # open_clip warns that no weights are loaded; here that is what was asked for.
            warnings.simplefilter("ignore")
            clip, train, evaluate = open_clip.create_model_and_transforms(
                name,
                pretrained=tag,
                load_weights=pretrained != "random",
                precision=precision,
                cache_dir=cache_dir,
                # A folder or hub model without weights would otherwise come with random ones, and a log message.
                require_pretrained=by_schema and pretrained != "random",
            )
            tokenizer = open_clip.get_tokenizer(name, cache_dir=cache_dir)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_explain(name, tag, error)) from error
    config = open_clip.get_model_preprocess_cfg(clip)
    size = config["size"][0] if isinstance(config["size"], (tuple, list)) else config["size"]
    return VLM(
        clip,
        tokenizer,
        Transforms(*(ImageTransform(size, config["mean"], config["std"], resize=t) for t in (train, evaluate))),
        # Of a checkpoint file the name alone: where it lies decides nothing, and what it holds is told by its content.
        name if tag is None else f"{name}/{Path(tag).name}",
    )


def _check_name(open_clip: ModuleType, name: str, tag: str | None) -> None:
    known = open_clip.list_models()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, ["tiny", *known], n=3)
        hint = f"; did you mean {', '.join(near)}" if near else ""
        raise InputError(f"no model is called {name!r}{hint}? (avalanche_vlm knows 'tiny' and open_clip's models)")
    if tag is not None and not Path(tag).exists():
        tags = open_clip.list_pretrained_tags_by_model(name)
        if ("/" in tag or "." in tag) and tag not in tags:
            raise InputError(f"there is no checkpoint file at {tag}")
        if tag not in tags:
            raise InputError(f"{name} has no pretrained weights {tag!r}; it has {', '.join(tags) or 'none'}")


def _check_folder(folder: Path) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no open_clip_config.json")


def _explain(name: str, tag: str | None, error: Exception) -> str:
    """One sentence for what open_clip or the hub raised."""
    seen: BaseException | None = error
    names = set()
    while seen is not None:
        names.add(type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    offline = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectTimeout", "ConnectError"}
    if names & offline or "URLError" in names or "Couldn't connect" in str(error):
        wanted = f"{name} ({tag})" if tag else name
        return (
            f"the weights of {wanted} are not on this machine and the model hub cannot be reached: on a machine with "
            "a network, run open_clip.create_model with the same arguments and copy its cache folder here, or download "
            'the checkpoint file and pass its path as create_vlm(name, pretrained="/path/to/file")'
        )
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    # torch names the model on the first line and what is wrong with its weights from the second on.
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"could not load {name}{f' with weights {tag}' if tag else ''}: {reason}"
