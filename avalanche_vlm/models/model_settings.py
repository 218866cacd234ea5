"""What ``open_clip_config.json`` may say: settings of an architecture that open_clip knows, and nothing that runs code.

A folder or a repository comes from anyone, and what its settings say reaches constructors of open_clip's,
transformers' and timm's. So every key is looked up in a list, at every depth, and what is not in it is refused.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from avalanche_vlm._given import SETTINGS_BYTES, content_of
from avalanche_vlm.errors import InputError

TRUST = "trust_remote_code"
"""The key by which transformers runs code that comes with a model: the user's to say, and never a file's."""

_NESTED: Mapping[str, frozenset[str]] = {
    "act_kwargs": frozenset({"approximate", "inplace"}),
    "norm_kwargs": frozenset({"eps", "elementwise_affine", "bias"}),
    "tokenizer_kwargs": frozenset(
        {
            # open_clip's own
            "additional_special_tokens",
            "bpe_path",
            "clean",
            "language",
            "reduction_mask",
            "strip_sep_token",
            "tokenizer_mode",
            # of transformers' tokenizers what says how text is cut, and not what is loaded
            "add_bos_token",
            "add_eos_token",
            "add_prefix_space",
            "bos_token",
            "cls_token",
            "do_lower_case",
            "eos_token",
            "keep_accents",
            "legacy",
            "mask_token",
            "model_max_length",
            "pad_token",
            "padding_side",
            "sep_token",
            "src_lang",
            "strip_accents",
            "tgt_lang",
            "truncation_side",
            "unk_token",
            "use_fast",
        }
    ),
}
"""Settings that are groups of others, and what may be in them."""


def read_settings(path: Path, trusted: bool = False) -> dict[str, Any]:
    """The settings of a model's folder.

    :param path: the file with its architecture, ``open_clip_config.json``.
    :param trusted: whether the user said that code of this model may run, so that the file may ask for it.
    :return: ``model_cfg``, and ``preprocess_cfg`` where the file has it.
    :raises InputError: if it is not readable, has no architecture, or says what no architecture of open_clip's has.
    """
    try:
        settings = json.loads(content_of(path, SETTINGS_BYTES).decode())
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from error
    check_settings(settings, str(path), trusted)
    return settings


def check_settings(settings: Any, where: str, trusted: bool = False) -> None:
    """See whether settings say nothing but what an architecture of open_clip's has.

    :param settings: what ``open_clip_config.json`` holds.
    :param where: the file that they are in, for the error.
    :param trusted: whether the user said that code of this model may run.
    :raises InputError: naming what is refused and where it stands.

    >>> from avalanche_vlm.errors import InputError
    >>> text = {"context_length": 8, "tokenizer_kwargs": {"clean": "lower", "subfolder": "x"}}
    >>> try:
    ...     check_settings({"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}}, "a.json")
    ... except InputError as error:
    ...     print(str(error)[:67])
    a.json: model_cfg.text_cfg.tokenizer_kwargs.subfolder is no setting
    """
    if not trusted and _trusts(settings):
        raise InputError(
            f"{where} sets {TRUST}, so that code that comes with the model or its tokenizer would run, and no file may "
            f"ask for that: where you trust the code, say {TRUST}=True (--trust-remote-code) yourself"
        )
    known = _known()
    _group(settings, known[""], "", where)
    for part in ("model_cfg", "preprocess_cfg"):
        _group(settings.get(part, {}), known[part], part, where)
    model = settings.get("model_cfg")
    if not model:
        raise InputError(f"{where} has no architecture: model_cfg is missing")
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if part not in model and part != "multimodal_cfg":
            raise InputError(f"{where} has no architecture: model_cfg.{part} is missing")
        _group(model.get(part, {}), known[part], f"model_cfg.{part}", where)
    timm = model["vision_cfg"].get("timm_model_name")
    if timm is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+", str(timm)):
        raise InputError(
            f"{where}: model_cfg.vision_cfg.timm_model_name is {timm!r}, which is no architecture of timm's: a folder "
            "or repository that timm would load brings settings that are not looked at"
        )


def comes_with_code_of_others(settings: Mapping[str, Any]) -> bool:
    """Whether a tokenizer or a text tower of Hugging Face's is loaded, with which code can come.

    :param settings: ``model_cfg`` of a model that was checked.

    >>> comes_with_code_of_others({"text_cfg": {"hf_tokenizer_name": "org/name"}})
    True
    """
    text = settings.get("text_cfg", {})
    return bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))


def _trusts(settings: Any) -> bool:
    """Whether settings ask anywhere that code of a model be run.

    >>> _trusts({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}})
    True
    >>> _trusts({"text_cfg": [{"trust_remote_code": False}, {"hf_tokenizer_name": "bert-base-uncased"}]})
    False
    """
    if isinstance(settings, dict):
        return bool(settings.get(TRUST)) or any(map(_trusts, settings.values()))
    return isinstance(settings, list) and any(map(_trusts, settings))


@cache
def _known() -> dict[str, frozenset[str]]:
    """The settings of each part, as the installed open_clip has them."""
    from open_clip.coca_model import CoCa, MultimodalCfg
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
    from open_clip.transform import PreprocessCfg

    arguments = {name for kind in (CLIP, CustomTextCLIP, CoCa) for name in inspect.signature(kind).parameters}
    return {
        "": frozenset({"model_cfg", "preprocess_cfg"}),
        "model_cfg": frozenset(arguments | {"custom_text"}) - {"cast_dtype"},
        "vision_cfg": frozenset(field.name for field in fields(CLIPVisionCfg)),
        "text_cfg": frozenset(field.name for field in fields(CLIPTextCfg)),
        "multimodal_cfg": frozenset(field.name for field in fields(MultimodalCfg)),
        "preprocess_cfg": frozenset(field.name for field in fields(PreprocessCfg)),
    }


_PARTS = ("model_cfg", "preprocess_cfg", "vision_cfg", "text_cfg", "multimodal_cfg")


def _group(found: Any, known: Collection[str], at: str, where: str) -> None:
    """Check the names of one group of settings, and that none hides another group."""
    if not isinstance(found, dict):
        raise InputError(f"{where}: {at or 'the file'} is no group of settings by their names")
    for name, value in found.items():
        place = f"{at}.{name}".lstrip(".")
        if name == TRUST:  # no, or the user's word as well
            continue
        if name not in known:
            raise InputError(
                f"{where}: {place} is no setting of a model that is known to run no code, and such settings are refused"
            )
        if name in _NESTED:
            _group(value or {}, _NESTED[name], place, where)
        elif name not in _PARTS and not _plain(value):
            raise InputError(f"{where}: {place} is not a plain value")


def _plain(value: Any) -> bool:
    """Whether a value is a number, a word, a switch, nothing, or a list of such."""
    if isinstance(value, list):
        return all(_plain(part) and not isinstance(part, list) for part in value)
    return value is None or isinstance(value, (str, int, float))
