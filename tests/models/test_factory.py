"""Models by name, from files and folders; and what is said when they cannot be had."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.tiny import WEIGHTS

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def sentence_of(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def model_folder(tmp_path):
    """A small model in open_clip's own folder format."""
    from open_clip.model import CLIP

    torch.manual_seed(1)
    clip = CLIP(**SMALL)
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": 32}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": preprocess}))
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path, clip.eval()


def test_tiny_comes_with_its_weights_and_freezes_the_scale():
    model = create_vlm("tiny")
    assert model.name == "tiny" and model.frozen == ("scale",)
    random = create_vlm("tiny", "random", freeze=("image", "text"))
    assert random.frozen == ("image", "text")
    assert not torch.equal(random.clip.visual.conv1.weight, model.clip.visual.conv1.weight)


def test_a_checkpoint_file_of_ones_own(tmp_path):
    weights = create_vlm("tiny", "random").clip.state_dict()
    save_file(weights, tmp_path / "mine.safetensors")
    model = create_vlm("tiny", tmp_path / "mine.safetensors")
    assert torch.equal(model.clip.visual.conv1.weight, weights["visual.conv1.weight"])


@torch.no_grad()
def test_a_local_open_clip_folder_loads_with_its_transforms_and_tokenizer(model_folder):
    folder, clip = model_folder
    model = create_vlm(f"local-dir:{folder}").eval()
    images = torch.randn(2, 3, 32, 32)
    expected = torch.nn.functional.normalize(clip.encode_image(images), dim=-1)
    torch.testing.assert_close(model.encode_image(images), expected)
    assert model.transforms.eval.mean == (0.1, 0.2, 0.3) and model.transforms.eval.size == 32
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    x = model.transforms.eval(pixels)
    torch.testing.assert_close(x[2, 0, 0], (pixels[2, 0, 0] / 255 - 0.3) / 0.6)
    assert torch.equal(model.transforms.eval.to_uint8(x), pixels)
    model.set_label_space(LabelSpace.from_names(["cat", "dog"]))
    assert model(images).shape == (2, 2)


@pytest.mark.slow
def test_an_architecture_with_random_weights():
    model = create_vlm("RN50-quickgelu", "random")
    assert model.transforms.eval.size == 224 and model.tokenize(["a cat"]).shape == (1, 77)


def test_unknown_names_and_tags():
    with pytest.raises(InputError, match="no model is called") as error:
        create_vlm("ViT-B-61")
    sentence_of(error)
    with pytest.raises(
        InputError, match=r"has no pretrained weights 'openia' \(did you mean openai\?\); it has openai"
    ):
        create_vlm("ViT-B-16", "openia")


def test_files_that_are_missing_broken_or_of_another_model(tmp_path, model_folder):
    with pytest.raises(InputError, match=r"there is no checkpoint file at .*none\.safetensors"):
        create_vlm("tiny", tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"there is no checkpoint file at /no/such/file\.pt"):
        create_vlm("ViT-B-16", "/no/such/file.pt")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a readable safetensors file") as error:
        create_vlm("tiny", cut)
    sentence_of(error)
    with pytest.raises(InputError, match="holds weights of another architecture"):
        create_vlm("tiny", model_folder[0] / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"has no open_clip_config\.json"):
        create_vlm(f"local-dir:{tmp_path / 'nowhere'}")


def test_a_folder_without_weights_is_not_filled_with_random_ones(model_folder):
    folder, _ = model_folder
    with pytest.raises(InputError, match="brings its own weights"):
        create_vlm(f"local-dir:{folder}", "openai")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"could not load local-dir:.*[Rr]equired pretrained weights"):
        create_vlm(f"local-dir:{folder}")
    assert create_vlm(f"local-dir:{folder}", "random").transforms.eval.size == 32


def test_weights_of_another_model_in_a_folder(model_folder):
    from safetensors.torch import load_file, save_file

    weights = model_folder[0] / "open_clip_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "ln_final" not in name}, weights)
    with pytest.raises(InputError, match=r"could not load local-dir:.*ln_final\.weight") as error:
        create_vlm(f"local-dir:{model_folder[0]}")
    sentence_of(error)


PRECISION = {"bf16": 0.02, "fp16": 0.003, "pure_bf16": 0.04, "pure_fp16": 0.005}


@pytest.mark.parametrize("name", ["tiny", "folder"])
@pytest.mark.parametrize("precision", PRECISION)
@torch.no_grad()
def test_half_precision_gives_features_and_logits_in_32_bits(model_folder, name, precision):
    name = "tiny" if name == "tiny" else f"local-dir:{model_folder[0]}"
    full, half = (create_vlm(name, precision=p).eval() for p in ("fp32", precision))
    assert half.name == f"{full.name}[precision={precision}]"
    assert half.clip.visual.conv1.weight.dtype == (torch.bfloat16 if "bf16" in precision else torch.float16)
    torch.manual_seed(0)
    images, texts = torch.randn(4, 3, 32, 32), ["a red star", "a blue ring"]
    for model in (full, half):
        model.set_label_space(LabelSpace.from_names(texts))
    for found, expected in (
        (half.encode_image(images), full.encode_image(images)),
        (half.encode_text(half.tokenize(texts)), full.encode_text(full.tokenize(texts))),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=PRECISION[precision], rtol=0)
        assert not torch.equal(found, expected)
    assert half(images).dtype == torch.float32 and torch.isfinite(half(images)).all()
    assert half.frozen_copy().encode_image(images).dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISION)
def test_half_precision_trains_as_full_precision_does(precision):
    """The gradient of a batch, with the criterion in 32 bits; and a step changes the weights."""
    gradients = []
    for chosen in ("fp32", precision):
        model = create_vlm("tiny", precision=chosen).set_label_space(LabelSpace.from_names(["red star", "blue ring"]))
        torch.manual_seed(0)
        logits = model.train()(torch.randn(4, 3, 32, 32))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
        weight = model.clip.visual.transformer.resblocks[1].mlp.c_fc.weight
        assert weight.grad.dtype == weight.dtype
        gradients.append(weight.grad.float().flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98
    before = weight.detach().clone()
    torch.optim.SGD(model.trainable_parameters().values(), lr=0.1).step()
    assert torch.isfinite(weight).all() and not torch.equal(weight, before)


def test_an_experiment_refuses_to_train_weights_in_fp16():
    from avalanche_vlm.benchmarks.picturebook.streams import mtil_like
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training.settings import TrainSettings

    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
    parameter.grad = torch.full_like(parameter, 1e-6)
    torch.optim.AdamW([parameter]).step()
    assert not torch.isfinite(parameter).all()  # this is why
    benchmark = mtil_like(n_train=4, n_test=2, n_held_out=2, n_reference=2)
    model = create_vlm("tiny", precision="fp16")
    with pytest.raises(InputError, match=r"tiny\[precision=fp16\] has weights in fp16 that train"):
        run_experiment(benchmark, "fine-tune", model=model, settings=TrainSettings(lr=1e-4, epochs=1, batch_size=2))


def test_a_precision_that_is_none():
    with pytest.raises(InputError, match=r"precision is fp32, .* or pure_fp16, not 'int8'"):
        create_vlm("tiny", precision="int8")


@torch.no_grad()
def test_another_image_size_resizes_positions_as_open_clip_does(model_folder):
    from open_clip import create_model

    name = f"local-dir:{model_folder[0]}"
    model = create_vlm(name, image_size=64).eval()
    theirs = create_model(name, force_image_size=64).eval()
    assert model.name == f"local-dir:{model_folder[0].name}[image_size=64]" and model.transforms.eval.size == 64
    image = torch.randint(0, 256, (3, 48, 80), dtype=torch.uint8)
    x = model.transforms.eval(image)[None]
    assert x.shape == (1, 3, 64, 64) and model.transforms.train(image).shape == (3, 64, 64)
    torch.testing.assert_close(model.encode_image(x), theirs.encode_image(x, normalize=True))
    with pytest.raises(InputError, match=r"takes images \[batch, 3, 64, 64\]"):
        model.encode_image(torch.zeros(1, 3, 32, 32))


@torch.no_grad()
def test_tiny_at_another_image_size():
    from open_clip.model import resize_pos_embed
    from safetensors.torch import load_file

    model = create_vlm("tiny", image_size=48).eval()
    weights = load_file(WEIGHTS)
    resize_pos_embed(weights, model.clip)
    assert torch.equal(model.clip.visual.positional_embedding, weights["visual.positional_embedding"])
    assert len(model.clip.visual.positional_embedding) == 1 + 6 * 6
    assert model.encode_image(torch.zeros(2, 3, 48, 48)).shape == (2, 128)
    for size in (0, -3, 2.5, True):
        with pytest.raises(InputError, match="image_size is a number of pixels"):
            create_vlm("tiny", image_size=size)


@pytest.mark.parametrize("name", ["tiny", "folder"])
def test_an_image_smaller_than_a_patch(model_folder, name):
    name = "tiny" if name == "tiny" else f"local-dir:{model_folder[0]}"
    with pytest.raises(InputError, match="image_size=7 is less than a patch of") as error:
        create_vlm(name, image_size=7)
    sentence_of(error)


def test_an_image_size_that_the_weights_cannot_take(tmp_path):
    from open_clip.model import CLIP

    resnet = {**SMALL, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}}
    save_file(CLIP(**resnet).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": resnet, "preprocess_cfg": {}}))
    assert create_vlm(f"local-dir:{tmp_path}").transforms.eval.size == 64
    with pytest.raises(InputError, match=r"attnpool\.positional_embedding is \[5, .*at another image_size") as error:
        create_vlm(f"local-dir:{tmp_path}", image_size=96)
    sentence_of(error)


def test_truncated_weights_in_a_folder(model_folder):
    weights = model_folder[0] / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"open_clip_model\.safetensors is not a readable safetensors file") as error:
        create_vlm(f"local-dir:{model_folder[0]}")
    sentence_of(error)


def test_without_a_network_one_sentence_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        create_vlm("ViT-B-16", "openai", cache_dir=str(tmp_path))
    sentence = sentence_of(error)
    assert "ViT-B-16 (openai)" in sentence and "cannot be reached" in sentence and "pretrained=" in sentence


def test_a_tokenizer_that_is_not_here_is_what_is_missing(monkeypatch):
    """Weights that are random, or a file, are none of what the hub would have to bring."""
    import huggingface_hub
    import open_clip

    def not_here(*_asked, **_how):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find the requested files")

    monkeypatch.setattr(open_clip, "get_tokenizer", not_here)
    with pytest.raises(InputError) as caught:
        create_vlm("ViT-S-32-alt", "random")
    sentence = str(caught.value)
    assert sentence.startswith(
        "the tokenizer of ViT-S-32-alt is not on this machine and the model hub cannot be reached"
    )
    assert "open_clip.get_tokenizer" in sentence and "weights" not in sentence and "checkpoint" not in sentence
    monkeypatch.setattr(open_clip, "create_model_and_transforms", not_here)
    with pytest.raises(
        InputError, match=r"^the files of ViT-S-32-alt are not on this machine.*open_clip\.create_model"
    ):
        create_vlm("ViT-S-32-alt", "random")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_with_their_name(tmp_path, broken):
    weights = create_vlm("tiny").clip.state_dict()
    weights["visual.conv1.weight"][0, 0, 0, 0] = broken
    torch.save(weights, tmp_path / "broken.pt")
    with pytest.raises(InputError, match=r"broken\.pt.* visual\.conv1\.weight has numbers that are NaN or infinite$"):
        create_vlm("tiny", tmp_path / "broken.pt")


def test_an_image_size_that_is_not_whole_patches():
    patch = create_vlm("tiny").clip.visual.patch_size[0]
    with pytest.raises(InputError, match=f"image_size={4 * patch + 1} .*take {4 * patch} or {5 * patch}$"):
        create_vlm("tiny", image_size=4 * patch + 1)
    assert create_vlm("tiny", image_size=5 * patch).transforms.eval.size == 5 * patch


def test_a_name_in_another_case_is_told_the_right_one():
    with pytest.raises(InputError, match="did you mean ViT-B-16"):
        create_vlm("vit-b-16")


def test_a_numpy_archive_for_a_model_that_reads_none(tmp_path, model_folder):
    np.savez(tmp_path / "n.npz", a=np.ones(3))
    with pytest.raises(InputError, match="numpy archive") as refused:
        create_vlm("RN50", tmp_path / "n.npz")
    assert "trunk" not in str(refused.value)
