"""What ``open_clip_config.json`` may say: every setting that open_clip has, and nothing else at any depth."""

from __future__ import annotations

import copy
import json
from typing import Any

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip_small import SMALL

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.model_settings import check_settings, comes_with_code_of_others, read_settings

PREPARED = {"size": 32, "mode": "RGB", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bicubic"}
PLACES = ((), ("model_cfg",), ("preprocess_cfg",), ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg"))
NESTED = tuple(("model_cfg", "text_cfg", group) for group in ("tokenizer_kwargs", "act_kwargs", "norm_kwargs"))
LOADERS = (
    "auto_map", "code_revision", "revision", "subfolder", "tokenizer_type", "tokenizer_class", "tokenizer_file",
    "vocab_file", "custom_pipeline", "attn_implementation", "_attn_implementation", "gguf_file", "checkpoint_path",
    "pretrained_cfg", "pretrained_cfg_overlay", "weights_only", "cast_dtype", "__class__", "config", "cache_dir",
    "proxies", "token", "from_slow", "_commit_hash", "adapter_kwargs", "quantization_config",
)  # fmt: skip


def settings_with(place: tuple[str, ...], name: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy({"model_cfg": SMALL, "preprocess_cfg": PREPARED})
    group = found
    for part in place:
        group = group.setdefault(part, {})
    group[name] = value
    return found


def test_settings_of_every_architecture_of_open_clips_are_known():
    names = open_clip.list_models()
    assert len(names) > 100
    for name in names:
        check_settings({"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": PREPARED}, name)
    check_settings(create_vlm("tiny").origin.config, "tiny")


@pytest.mark.parametrize("place", [*PLACES, *NESTED], ids=".".join)
@pytest.mark.parametrize("name", LOADERS)
def test_a_key_that_only_a_loader_reads_is_refused_by_its_name(place, name):
    with pytest.raises(InputError) as error:
        check_settings(settings_with(place, name, "x"), "config.json")
    assert f"config.json: {'.'.join((*place, name))} is no setting" in str(error.value) and "\n" not in str(error.value)


@given(
    place=st.sampled_from([*PLACES, *NESTED]),
    name=st.text(max_size=30),
    value=st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda v: st.lists(v) | st.dictionaries(
        st.sampled_from(["trust_remote_code", "a"]), v), max_leaves=5),
)  # fmt: skip
def test_whatever_a_file_says_it_is_known_or_refused_in_a_sentence(place, name, value):
    try:
        check_settings(settings_with(place, name, value), "config.json")
    except InputError:
        return
    found = json.dumps(settings_with(place, name, value))
    assert "trust_remote_code" not in found or value in (None, False, "", [], {})


@pytest.mark.parametrize(
    "asked", [{"clean": {"trust_remote_code": True}}, {"additional_special_tokens": [{"a": 1}]}, "x", ["trust"]]
)
def test_a_group_is_not_hidden_in_a_value(asked):
    with pytest.raises(InputError, match=r"tokenizer_kwargs|trust_remote_code"):
        check_settings(settings_with(("model_cfg", "text_cfg"), "tokenizer_kwargs", asked), "config.json")


@pytest.mark.parametrize("name", ["local-dir:/tmp/x", "hf-hub:org/x", "hf_hub:org/x", "../x", "timm/x", ["x"]])
def test_timm_is_named_an_architecture_and_no_place_to_load_from(name):
    with pytest.raises(
        InputError, match=r"timm_model_name is .*, which is no architecture of timm's|not a plain value"
    ):
        check_settings(settings_with(("model_cfg", "vision_cfg"), "timm_model_name", name), "config.json")


def test_the_users_word_is_needed_beside_the_files(tmp_path):
    asked = settings_with(NESTED[0], "trust_remote_code", True)
    with pytest.raises(InputError, match=r"sets trust_remote_code, .* no file may ask for that"):
        check_settings(asked, "config.json")
    check_settings(asked, "config.json", trusted=True)
    check_settings(settings_with(NESTED[0], "trust_remote_code", False), "config.json")
    with pytest.raises(InputError, match=r"tiny has no tokenizer or text tower that code could come with"):
        create_vlm("tiny", trust_remote_code=True)
    assert comes_with_code_of_others({"text_cfg": {"hf_model_name": "a"}}) and not comes_with_code_of_others(SMALL)


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"model_cfg": 3}', "{}", '{"model_cfg": {"embed_dim": 3}}', "[" * 9999]
)
def test_a_file_without_an_architecture_is_named(tmp_path, content):
    path = tmp_path / "open_clip_config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        read_settings(path)
