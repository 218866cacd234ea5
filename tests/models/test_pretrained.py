"""Weights get the activation that they were trained with, wherever they come from."""

from __future__ import annotations

import hashlib
import json
import warnings

import pytest
import torch
from open_clip.transformer import QuickGELU
from open_clip_small import SMALL, openai_archive, register, small_clip
from safetensors.torch import save_file

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.pretrained import weights_of_tag


def activations(vlm) -> set[bool]:
    """Of the towers' MLPs: whether each is QuickGELU."""
    return {isinstance(m, QuickGELU) for n, m in vlm.clip.named_modules() if n.endswith("mlp.gelu")}


def assert_computes(vlm, clip) -> None:
    """The same logits as open_clip's own model."""
    torch.manual_seed(0)
    images, tokens = torch.randn(3, 3, 32, 32), vlm.tokenize(["a cat", "two dogs"])
    with torch.no_grad():
        expected = clip.get_logits(images, tokens)[0]
        found = vlm.eval().similarity(vlm.encode_image(images), vlm.encode_text(tokens))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quick", [True, False])
def test_a_tag_gets_the_activation_that_it_was_trained_with(monkeypatch, tmp_path, quick):
    clip = small_clip(quick)
    save_file(clip.state_dict(), tmp_path / "weights.safetensors")
    register(monkeypatch, tmp_path, {"theirs": {"file": str(tmp_path / "weights.safetensors"), "quick_gelu": quick}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vlm = create_vlm("small", "theirs")
    assert activations(vlm) == {quick}
    assert vlm.name == ("small-quickgelu/theirs" if quick else "small/theirs")
    assert_computes(vlm, clip)
    other = small_clip(not quick)
    with torch.no_grad():  # the activation is seen in the logits, so that the comparison can fail
        tokens = vlm.tokenize(["a cat"])
        assert (other.encode_text(tokens) - clip.encode_text(tokens)).abs().max() > 1e-3
    assert vlm.transforms.eval.mean == (0.1, 0.2, 0.3)


def test_every_tag_of_open_clip_is_built_as_it_was_trained(monkeypatch, tmp_path):
    from open_clip import factory, list_pretrained

    save_file(small_clip().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(factory, "download_pretrained", lambda *a, **k: str(tmp_path / "weights.safetensors"))
    for name, tag in list_pretrained():
        listed = bool(factory.get_pretrained_cfg(name, tag).get("quick_gelu"))
        with warnings.catch_warnings():
            if name == "roberta-ViT-B-32":  # its architecture says QuickGELU and its tag nothing
                warnings.filterwarnings("ignore", message="open_clip lists")
                listed = True
            else:
                warnings.simplefilter("error")
            assert weights_of_tag(name, tag, None).quick_gelu == listed, (name, tag)


def test_openais_archive_is_known_by_what_is_in_it(monkeypatch, tmp_path):
    clip = small_clip(quick_gelu=True)
    openai_archive(clip, tmp_path / "mine.pt")
    register(monkeypatch, tmp_path, {"other": {}})
    vlm = create_vlm("small", tmp_path / "mine.pt")
    assert activations(vlm) == {True} and vlm.name == "small-quickgelu/mine.pt"
    assert {p.dtype for p in vlm.parameters()} == {torch.float32}
    for name, tensor in clip.state_dict().items():
        torch.testing.assert_close(vlm.clip.state_dict()[name], tensor, atol=2e-3, rtol=1e-3)  # 16 bits were stored
    rounded = small_clip(quick_gelu=True)
    rounded.load_state_dict(vlm.clip.state_dict())
    assert_computes(vlm, rounded)


def test_a_state_dict_of_openais_archive_is_known_too(monkeypatch, tmp_path):
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    state = {**small_clip().state_dict(), **numbers, "vocab_size": torch.tensor(49408)}
    torch.save(state, tmp_path / "openai.pt")
    register(monkeypatch, tmp_path, {})
    assert activations(create_vlm("small", tmp_path / "openai.pt")) == {True}


def test_a_file_is_known_by_its_checksum_and_by_the_repository_that_it_lies_in(monkeypatch, tmp_path):
    clip = small_clip(quick_gelu=True)
    torch.save(clip.state_dict(), tmp_path / "renamed.pt")
    digest = hashlib.sha256((tmp_path / "renamed.pt").read_bytes()).hexdigest()
    hub = tmp_path / "models--org--theirs" / "snapshots" / "abc"
    hub.mkdir(parents=True)
    save_file(clip.state_dict(), hub / "open_clip_model.safetensors")
    tags = {
        "plain": {"url": "https://github.com/mlfoundations/open_clip/releases/x/plain-01234567.pt"},
        "full": {"url": f"https://openaipublic.azureedge.net/clip/models/{digest}/x.pt", "quick_gelu": True},
        "hub": {"hf_hub": "org/theirs/", "quick_gelu": True},
    }
    register(monkeypatch, tmp_path, tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activations(create_vlm("small", tmp_path / "renamed.pt")) == {True}
        assert activations(create_vlm("small", hub / "open_clip_model.safetensors")) == {True}
        tags["full"]["url"] = f"https://github.com/mlfoundations/open_clip/releases/x/y-{digest[:8]}.pt"
        register(monkeypatch, tmp_path, tags)
        vlm = create_vlm("small", tmp_path / "renamed.pt")
    assert activations(vlm) == {True} and vlm.transforms.eval.std == (0.4, 0.5, 0.6)


def test_a_file_of_unknown_origin_is_plain_and_says_so(monkeypatch, tmp_path):
    clip = small_clip()
    save_file(clip.state_dict(), tmp_path / "mine.safetensors")
    register(monkeypatch, tmp_path, {})
    with pytest.warns(UserWarning, match=r"mine\.safetensors is taken as .*plain GELU.*small-quickgelu") as caught:
        vlm = create_vlm("small", tmp_path / "mine.safetensors")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert activations(vlm) == {False}
    assert_computes(vlm, clip)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = create_vlm("small-quickgelu", tmp_path / "mine.safetensors")
        assert activations(named) == {True} and named.name.startswith("small-quickgelu/")
        register(monkeypatch, tmp_path, {}, quick=False)
    monkeypatch.setitem(__import__("open_clip").factory._MODEL_CONFIGS, "alone", SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there are no weights of the other kind to take it for
        assert activations(create_vlm("alone", tmp_path / "mine.safetensors")) == {False}


def test_a_folder_says_it_in_its_settings_or_is_called_like_a_listed_repository(monkeypatch, tmp_path):
    register(monkeypatch, tmp_path, {"hub": {"hf_hub": "org/theirs/", "quick_gelu": True}})
    for place, settings in (("mine", {**SMALL, "quick_gelu": True}), ("theirs", SMALL)):
        folder = tmp_path / place
        folder.mkdir()
        save_file(small_clip().state_dict(), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
        assert activations(create_vlm(f"local-dir:{folder}")) == {True}


def test_siglip_without_transformers_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"ViT-B-16-SigLIP needs .*transformers.*avalanche-vlm\[hf\]"):
        create_vlm("ViT-B-16-SigLIP", "random")


def test_the_extra_is_declared():
    import configparser
    from pathlib import Path

    from avalanche_vlm.models.load_errors import EXTRA

    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[2] / "setup.cfg")
    assert "transformers" in settings["options.extras_require"][EXTRA]
