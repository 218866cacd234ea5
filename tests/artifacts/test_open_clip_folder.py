"""Where a recipe ends in plain weights, open_clip alone opens the folder and gives the same features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from open_clip_small import register
from safetensors.torch import load_file, save_file
from trained import short_stream, train

from avalanche_vlm.artifacts import load, open_saved, save_model
from avalanche_vlm.artifacts.open_clip_folder import is_plain
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.modules.lora import inject_lora

ALONE = """
import sys
import open_clip, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
model, _, prepare = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
asked = load_file(sys.argv[2])
with torch.no_grad():
    found = {"image": model.eval().encode_image(asked["images"]), "text": model.encode_text(asked["tokens"])}
found["scale"] = model.logit_scale.exp()
save_file({name: tensor.contiguous() for name, tensor in found.items()}, sys.argv[3])
assert not [name for name in sys.modules if name.startswith("avalanche")]
print(prepare)
"""


def alone(folder: Path, model: VLM, tmp_path: Path) -> str:
    """Compare what open_clip makes of a folder in a process of its own: how it prepares images."""
    size = model.transforms.eval.size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenize(["a red star", "a small blue heart"])
    save_file({"images": images, "tokens": tokens}, tmp_path / "asked.safetensors")
    arguments = [str(folder), str(tmp_path / "asked.safetensors"), str(tmp_path / "found.safetensors")]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    with torch.no_grad():
        assert torch.equal(found["image"], model.encode_image(images, normalize=False))
        assert torch.equal(found["text"], model.encode_text(tokens, normalize=False))
        assert torch.equal(found["scale"], model.scale)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fine-tune", "zscl", "magmax", "wise-ft", "c-clip", "keeplora", "zero-shot"])
def test_open_clip_alone_opens_what_ends_in_plain_weights(tmp_path, recipe):
    found = train(recipe, short_stream("classes"), create_vlm)
    save_model(tmp_path, found.model, **found.how)
    assert open_saved(tmp_path).description.plain
    said = alone(tmp_path / "model", found.model.eval(), tmp_path)
    assert "mean=[0.5, 0.5, 0.5]" in said and "size=32" in said.replace("size=(32, 32)", "size=32")


@pytest.mark.slow
def test_an_architecture_of_open_clips_is_said_as_it_was_built(tmp_path, monkeypatch):
    name = register(monkeypatch, tmp_path, {})
    torch.manual_seed(0)
    model = create_vlm(f"{name}-quickgelu", image_size=48).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_model(tmp_path, model)
    config = json.loads((tmp_path / "model" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] and config["model_cfg"]["vision_cfg"]["image_size"] == 48
    alone(tmp_path / "model", model, tmp_path)
    assert torch.equal(load(tmp_path).clip.visual.proj, model.clip.visual.proj)


def test_tensors_are_in_one_file(tmp_path):
    model = create_vlm("tiny").eval()
    save_model(tmp_path, model)
    files = open_saved(tmp_path).description.files
    assert set(files) == {"model.safetensors", "open_clip_config.json", "open_clip_model.safetensors"}
    assert files["model.safetensors"].bytes < 100
    assert load_file(tmp_path / "model" / "open_clip_model.safetensors").keys() == model.clip.state_dict().keys()


def test_what_decides_beside_the_towers_is_seen():
    model = create_vlm("tiny", "random")
    assert is_plain(model)
    layers = inject_lora(model.tower("image"), rank=2)
    assert is_plain(model)  # places without modules compute what the layers compute
    for layer in layers.values():
        layer.add("a")
    assert not is_plain(model)
    for slot in ("routed", "image_path", "class_head"):
        other = create_vlm("tiny", "random")
        setattr(other, slot, torch.nn.Identity())
        assert not is_plain(other)


def test_a_model_that_is_not_plain_is_no_folder_of_open_clips(tmp_path):
    model = create_vlm("tiny", "random")
    model.class_head = torch.nn.Identity()
    save_model(tmp_path, model)
    assert not (tmp_path / "model" / "open_clip_config.json").exists()
