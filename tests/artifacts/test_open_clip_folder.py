"""Where a recipe ends in plain weights, open_clip alone opens the folder and gives the same features."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from open_clip_small import SMALL, register, small_clip
from safetensors.torch import load_file, save_file
from trained import short_stream, train

from avalanche_vlm.artifacts import load, open_saved, save_model
from avalanche_vlm.artifacts.open_clip_folder import towers_decide
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.training import recipes

ALONE = """
import json, sys
import open_clip, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for job in json.load(open(sys.argv[1])):
    model, _, prepare = open_clip.create_model_and_transforms("local-dir:" + job["folder"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in job["trains"])  # torch's kernels round otherwise where nothing trains
    asked = load_file(job["asked"])
    with torch.no_grad():
        found = {"image": model.eval().encode_image(asked["images"]), "text": model.encode_text(asked["tokens"])}
    found["scale"] = model.logit_scale.exp().detach()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, job["found"])
    print(prepare)
assert not [name for name in sys.modules if name.startswith("avalanche")]
"""


def alone(models: dict[str, VLM], tmp_path: Path) -> str:
    """Compare what open_clip makes of folders in a process of its own: how it prepares images."""
    jobs = []
    for name, model in models.items():
        save_model(tmp_path / name, model)
        assert open_saved(tmp_path / name).description.plain
        size = model.transforms.eval.size
        images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
        tokens = model.tokenize(["a red star", "a small blue heart"])
        save_file({"images": images, "tokens": tokens}, tmp_path / f"{name}.asked")
        jobs.append({what: str(tmp_path / f"{name}.{what}") for what in ("asked", "found")})
        trains = [parameter.removeprefix("clip.") for parameter in model.trainable_parameters()]
        jobs[-1] |= {"folder": str(tmp_path / name / "model"), "trains": trains}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "jobs.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for job, model in zip(jobs, models.values(), strict=True):
        asked, found = load_file(job["asked"]), load_file(job["found"])
        with torch.no_grad():
            assert torch.equal(found["image"], model.eval().encode_image(asked["images"], normalize=False))
            assert torch.equal(found["text"], model.encode_text(asked["tokens"], normalize=False))
            assert torch.equal(found["scale"], model.scale)
    return done.stdout


@pytest.mark.slow
def test_open_clip_alone_opens_what_ends_in_plain_weights(tmp_path, monkeypatch, pytestconfig):
    stream = short_stream("classes")
    plain: tuple[str, ...] = ("wise-ft", "c-clip")
    if pytestconfig.getoption("--grid"):
        plain += ("fine-tune", "zero-shot", "zscl", "magmax", "keeplora", "latent-replay")
    models = {recipe: train(recipe, stream, create_vlm).model for recipe in plain}
    name = register(monkeypatch, tmp_path, {})
    torch.manual_seed(0)
    models["quick"] = create_vlm(f"{name}-quickgelu", image_size=48)
    with torch.no_grad():
        for parameter in models["quick"].parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    said = alone(models, tmp_path)
    assert said.count("mean=[0.5, 0.5, 0.5]") == len(plain) and said.count("size=48") + said.count("size=(48, 48)") >= 1
    config = json.loads((tmp_path / "quick" / "model" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] and config["model_cfg"]["vision_cfg"]["image_size"] == 48
    assert torch.equal(load(tmp_path / "quick").clip.visual.proj, models["quick"].clip.visual.proj)


@pytest.mark.slow
def test_a_tokenizer_of_hugging_faces_lies_in_the_folder(tmp_path):
    pytest.importorskip("transformers")
    from open_clip import get_tokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "a", "red", "star", "photo", "of", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (first := tmp_path / "first").mkdir()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(first)
    text = {**SMALL["text_cfg"], "vocab_size": len(words), "context_length": 12, "hf_tokenizer_name": "none/at-all"}
    config = {"model_cfg": {**SMALL, "text_cfg": text}, "preprocess_cfg": {}}
    (first / "open_clip_config.json").write_text(json.dumps(config))
    clip = small_clip(text_cfg={name: value for name, value in text.items() if name != "hf_tokenizer_name"})
    save_file(clip.state_dict(), first / "open_clip_model.safetensors")
    model = create_vlm(f"local-dir:{first}").eval()
    wanted = model.tokenize(["a photo of a red star.", "a fox"])
    for embedded in (False, True):
        save_model(tmp_path / "second", model, embed_base=embedded)
        read = get_tokenizer(f"local-dir:{tmp_path / 'second' / 'model'}")
        assert torch.equal(read(["a photo of a red star.", "a fox"]), wanted)
    shutil.rmtree(first)
    assert torch.equal(load(tmp_path / "second").tokenize(["a photo of a red star.", "a fox"]), wanted)


def test_tensors_are_in_one_file(tmp_path):
    model = create_vlm("tiny").eval()
    save_model(tmp_path, model)
    files = open_saved(tmp_path).description.files
    assert set(files) == {"model.safetensors", "open_clip_config.json", "open_clip_model.safetensors"}
    assert files["model.safetensors"].bytes < 100
    assert load_file(tmp_path / "model" / "open_clip_model.safetensors").keys() == model.clip.state_dict().keys()


def test_what_decides_beside_the_towers_is_seen():
    model = create_vlm("tiny", "random")
    assert towers_decide(model)
    layers = inject_lora(model.tower("image"), rank=2)
    assert towers_decide(model)  # places without modules compute what the layers compute
    for layer in layers.values():
        layer.add("a")
    assert not towers_decide(model)
    for slot in ("routed", "image_path", "class_head"):
        other = create_vlm("tiny", "random")
        setattr(other, slot, torch.nn.Identity())
        assert not towers_decide(other)


def test_a_model_that_is_not_plain_is_no_folder_of_open_clips(tmp_path):
    model = create_vlm("tiny", "random")
    recipes.build("simplecil", model=model)
    save_model(tmp_path, model, recipe="simplecil")
    assert not (tmp_path / "model" / "open_clip_config.json").exists()
