"""Models that bring settings and weights of their own: of none of their files is code executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from open_clip.transformer import QuickGELU
from open_clip_small import SMALL, openai_archive, small_clip
from safetensors.torch import save_file

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm

WEIGHTS = "open_clip_pytorch_model.bin"


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def model_folder(path: Path, **text: object) -> Path:
    """A model's folder without weights."""
    path.mkdir(exist_ok=True)
    settings = {**SMALL, "text_cfg": {**SMALL["text_cfg"], **text}}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    return model_folder(tmp_path / "model")


@pytest.fixture(params=["local-dir:", "hf-hub:"])
def name(request, monkeypatch, folder) -> str:
    """The folder's model, by where it lies or as the hub's."""
    if request.param == "local-dir:":
        return f"local-dir:{folder}"
    import open_clip

    def download(repository: str, filename: str = WEIGHTS, **_: object) -> str:
        assert repository == "some/model"
        return str(folder / filename)

    for module in (open_clip.pretrained, open_clip.factory):
        monkeypatch.setattr(module, "download_pretrained_from_hf", download)
    return "hf-hub:some/model"


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """Files of weights that open_clip opens: under older versions of torch some with ``weights_only=False``."""
    from open_clip import factory

    found, load = [], factory.load_state_dict

    def listed(path: str, *arguments: object, **named: object) -> dict[str, torch.Tensor]:
        found.append(Path(path))
        return load(path, *arguments, **named)

    monkeypatch.setattr(factory, "load_state_dict", listed)
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", ["state", "training", "archive"])
def test_a_pickle_of_weights_is_opened_by_us_alone(name, folder, opened, kind):
    clip = small_clip()
    if kind == "state":
        torch.save(clip.state_dict(), folder / WEIGHTS)
    elif kind == "training":
        state = {f"module.{key}": tensor for key, tensor in clip.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}}}, folder / WEIGHTS)
    else:
        openai_archive(clip, folder / WEIGHTS)
    model = create_vlm(name).eval()
    for key, tensor in clip.state_dict().items():
        half = kind == "archive"  # OpenAI's have 16 bits, and QuickGELU
        torch.testing.assert_close(model.clip.state_dict()[key], tensor, atol=2e-3 * half, rtol=1e-3 * half)
    assert isinstance(model.clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU if half else torch.nn.GELU)
    assert model.name == (name if name.startswith("hf-hub:") else "local-dir:model")
    assert len(opened) == 1 and folder not in opened[0].parents


def test_a_pickle_that_wants_code_is_refused_unopened(name, folder, opened, tmp_path):
    for content in ({"state_dict": Code(tmp_path / "ran")}, {**small_clip().state_dict(), "x": Code(tmp_path / "ran")}):
        torch.save(content, folder / WEIGHTS)
        with pytest.raises(InputError, match=rf"{WEIGHTS} is a pickle that asks for posix\.mkdir, which could run"):
            create_vlm(name)
    (folder / WEIGHTS).write_bytes(pickle.dumps(Code(tmp_path / "ran"), protocol=2))
    with pytest.raises(InputError, match=rf"{WEIGHTS} is a pickle that asks for posix\.mkdir"):
        create_vlm(name)
    assert opened == [] and not (tmp_path / "ran").exists()


def test_of_several_files_the_one_is_loaded_that_open_clip_would_load(folder, opened):
    from open_clip import create_model

    for number, file in enumerate(("a.bin", "z.safetensors", "model.pth", WEIGHTS, "open_clip_model.safetensors")):
        state = {key: torch.full_like(tensor, number) for key, tensor in small_clip().state_dict().items()}
        save_file(state, folder / file) if file.endswith("safetensors") else torch.save(state, folder / file)
        found, expected = create_vlm(f"local-dir:{folder}"), create_model(f"local-dir:{folder}")
        assert torch.equal(found.clip.visual.proj, expected.visual.proj) and found.clip.visual.proj[0, 0] == number


def tokenizer_with_code(folder: Path, made: Path) -> None:
    """What a tokenizer's folder holds whose class comes with it."""
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(made)!r})\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )


@pytest.mark.parametrize("where", ["tokenizer_kwargs", "deep"])
def test_settings_that_trust_code_are_refused(name, folder, tmp_path, where):
    asked = {"trust_remote_code": True}
    text = {"hf_tokenizer_name": str(folder), "tokenizer_kwargs": asked if where != "deep" else {"x": [asked]}}
    model_folder(folder, **text)
    tokenizer_with_code(folder, tmp_path / "ran")
    torch.save(small_clip().state_dict(), folder / WEIGHTS)
    for weights in (None, "random"):
        with pytest.raises(InputError, match=r"open_clip_config\.json sets trust_remote_code, so that code") as error:
            create_vlm(name, weights)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["tokenizer", "text tower"])
def test_code_that_comes_with_a_tokenizer_or_text_tower_is_refused_without_a_question(
    monkeypatch, folder, tmp_path, part
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("builtins.input", lambda _: "y")  # a user who trusts everything
    if part == "tokenizer":
        model_folder(folder, hf_tokenizer_name="any")
        tokenizer_with_code(folder, tmp_path / "ran")
    else:
        model_folder(folder, hf_model_name=str(folder))
        tokenizer_with_code(folder, tmp_path / "ran")
        (folder / "config.json").write_text(
            json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}})
        )
    torch.save(small_clip().state_dict(), folder / WEIGHTS)
    with pytest.raises(
        InputError, match=r"could not load local-dir:.*: code that comes with it would have to"
    ) as error:
        create_vlm(f"local-dir:{folder}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_settings_that_are_no_json(folder):
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match=r"open_clip_config\.json is not readable as JSON"):
        create_vlm(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"mean": [0.5, 0.5]}, "mean of images is three finite numbers"),
        ({"mean": 0.5}, "mean of images is three finite numbers"),
        ({"mean": [float("nan")] * 3}, "mean of images is three finite numbers"),
        ({"std": ["a", 1, 1]}, "standard deviation of images is three finite numbers"),
        ({"std": [0.5, 0, 0.5]}, "standard deviation of images is above 0"),
    ],
)
def test_settings_of_images_that_prepare_none_are_refused(folder, said, sentence):
    save_file(small_clip().state_dict(), folder / "open_clip_model.safetensors")
    path = folder / "open_clip_config.json"
    settings = json.loads(path.read_text())
    settings["preprocess_cfg"] = {**settings.get("preprocess_cfg", {}), **said}
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=sentence) as error:
        create_vlm(f"local-dir:{folder}")
    assert str(folder) in str(error.value)
