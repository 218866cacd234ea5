"""A small architecture in open_clip's registry, with tags whose files a test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def small_clip(quick_gelu: bool = False, seed: int = 1, **changes: Any) -> CLIP:
    """open_clip's own model of the small architecture, with weights of a size at which activations differ."""
    torch.manual_seed(seed)
    clip = CLIP(**{**SMALL, **changes}, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if "mlp" in name:
                parameter.normal_()
    return clip


def register(monkeypatch: pytest.MonkeyPatch, folder: Path, tags: dict[str, dict[str, Any]], quick: bool = True) -> str:
    """Add the architecture ``small`` (and ``small-quickgelu``) to open_clip, and tags with files of the test's.

    :param tags: fields of a tag's configuration by tag, ``file`` the path that its download gives.
    :param quick: whether open_clip has the architecture with QuickGELU as well.
    """
    from open_clip import factory, pretrained

    configs = {"small": SMALL, **({"small-quickgelu": {**SMALL, "quick_gelu": True}} if quick else {})}
    (folder / "configs").mkdir(exist_ok=True)
    for name, config in configs.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    factory.add_model_config(folder / "configs")
    preprocessing = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
    known = {tag: {"url": "", "hf_hub": "", **preprocessing, **config} for tag, config in tags.items()}
    monkeypatch.setitem(pretrained._PRETRAINED, "small", known)
    monkeypatch.setitem(
        pretrained._PRETRAINED, "small-quickgelu", {t: c for t, c in known.items() if c.get("quick_gelu")}
    )
    return "small"


def openai_archive(clip: CLIP, path: Path) -> None:
    """The model as OpenAI published theirs: a TorchScript archive with weights in 16 bits and three numbers."""
    import copy
    import warnings

    from open_clip.model import convert_weights_to_lp

    clip = copy.deepcopy(clip)
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(clip, name):
            delattr(clip, name)
        clip.register_buffer(name, torch.tensor(value))
    convert_weights_to_lp(clip)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # TorchScript is on its way out
        example = torch.randn(1, 3, 32, 32).half(), torch.randint(0, 9, (1, 77))
        torch.jit.trace(clip, example, check_trace=False).save(str(path))
