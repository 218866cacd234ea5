"""``open_clip_config.json``: what it says is refused, or is nothing that can run code."""

from __future__ import annotations

from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import TEXTS, as_text, changed_json

SHARE, QUICK = 120, 80

SETTINGS = {
    "model_cfg": {
        "embed_dim": 8,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
_WORDS = (
    "trust_remote_code",
    "tokenizer_kwargs",
    "hf_tokenizer_name",
    "hf_model_name",
    "timm_model_name",
    "timm_pool",
    "text_cfg",
)
_WORDS += (
    "vision_cfg",
    "multimodal_cfg",
    "custom_text",
    "act_kwargs",
    "norm_kwargs",
    "output_tokens",
    "layers",
    "width",
    "subfolder",
    "init_logit_scale",
)
_WORDS += (
    "attentional_pool",
    "patch_dropout",
    "pool_type",
    "image_size",
    "mean",
    "std",
    "size",
    "mode",
    "fill_color",
    "bpe_path",
    "code_revision",
)


def make(random: Random) -> Example:
    """Settings, changed."""
    settings = changed_json(random, SETTINGS, _WORDS)
    if random.randrange(4) == 0 and isinstance(settings, dict):
        for _ in range(random.randrange(1, 3)):
            part = settings.get("model_cfg")
            part = part.get(random.choice(("text_cfg", "vision_cfg"))) if isinstance(part, dict) else None
            if isinstance(part, dict):
                part[random.choice(_WORDS)] = random.choice(
                    (True, 1, {"trust_remote_code": True}, {"use_fast": [[]]}, *TEXTS[:8])
                )
    return Example("open_clip_config.json", as_text(random, settings))


def check(example: Example, folder: Path) -> None:
    """Settings that pass trust nobody, at whatever depth."""
    from avalanche_vlm.models.model_settings import comes_with_code_of_others, read_settings

    path = folder / example.name
    path.write_bytes(example.content)
    settings = read_settings(path)
    comes_with_code_of_others(settings["model_cfg"])
    if trusts(settings):
        raise WrongAccept(f"{settings} passes, and has code run")


def trusts(value: object) -> bool:
    """Whether a value says anywhere that code may run.

    :param value: any JSON value.
    """
    if isinstance(value, dict):
        return any((key == "trust_remote_code" and bool(of)) or trusts(of) for key, of in value.items())
    return isinstance(value, list) and any(map(trusts, value))
