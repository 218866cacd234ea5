"""Folders of models in which something that runs is put in the place of every file in turn: nothing of it runs."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip_small import SMALL, register, small_clip
from safetensors.torch import save_file

from avalanche_vlm.artifacts import load
from avalanche_vlm.artifacts.description import read_description, write_description
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def words_folder(folder: Path, module: str | None = None, made: Path | None = None) -> Path:
    """A model's folder with a tokenizer of Hugging Face's format, of words, with a module of its own if asked for.

    :param module: name of the module with the tokenizer's class, which makes a folder when it is run.
    :param made: the folder that it makes.
    """
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    words = {"[UNK]": 0, "[PAD]": 1, "a": 2, "photo": 3, "of": 4, "cat": 5}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    kept = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]")
    kept.save_pretrained(str(folder))
    text = {**SMALL["text_cfg"], "context_length": 8, "vocab_size": 6, "hf_tokenizer_name": "any"}
    settings = {"model_cfg": {**SMALL, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    changed = {"context_length": 8, "vocab_size": 6}
    save_file(
        small_clip(text_cfg={**SMALL["text_cfg"], **changed}).state_dict(), folder / "open_clip_model.safetensors"
    )
    if module:
        (folder / f"{module}.py").write_text(
            f"import os\nos.mkdir({str(made)!r})\nfrom transformers import PreTrainedTokenizerFast\n\n\n"
            "class Own(PreTrainedTokenizerFast):\n    pass\n"
        )
        path = folder / "tokenizer_config.json"
        own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, f"{module}.Own"]}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Where transformers copies modules of models before it runs them."""
    utils = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda _: "y")  # a user who trusts everything


@pytest.mark.parametrize("module", ["own", "tokenizer", "tokenization_own"])
def test_a_tokenizers_module_runs_by_the_users_word_alone(tmp_path, module):
    folder = words_folder(tmp_path / "model", module, tmp_path / "ran")
    with pytest.raises(InputError, match=r"it may only where you say so: trust_remote_code=True") as error:
        create_vlm(f"local-dir:{folder}")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
    model = create_vlm(f"local-dir:{folder}", trust_remote_code=True)
    assert (tmp_path / "ran").exists() and type(model.tokenizer.tokenizer).__name__ == "Own"
    assert model.tokenize(["a cat"])[0, :2].tolist() == [2, 5]
    assert model.origin is None  # who loads what is saved of it gives the base, and so says the word again
    shutil.rmtree(tmp_path / "ran")
    with pytest.raises(InputError, match="it may only where you say so"):
        create_vlm(f"local-dir:{folder}")  # trust ends with the call


def test_what_is_saved_of_a_trusted_model_is_loaded_with_its_base_alone(tmp_path):
    folder = words_folder(tmp_path / "model", "own", tmp_path / "ran")
    create_vlm(f"local-dir:{folder}", trust_remote_code=True).save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "ran")
    with pytest.raises(InputError, match=r"make its base in the same way and give it"):
        load(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()


TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "tokenizer.py", "tokenization_own.py",
    "chat_template.jinja", "config.json", "adapter_config.json", "__init__.py", "conftest.py", "sitecustomize.py",
)  # fmt: skip


@pytest.mark.parametrize("file", [*TOKENIZER_FILES, "open_clip_config.json", "open_clip_model.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "python"])
def test_no_file_of_a_folder_runs(monkeypatch, tmp_path, file, kind):
    folder = words_folder(tmp_path / "model")
    monkeypatch.chdir(folder)
    if kind == "pickle":
        (folder / file).write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    elif kind == "torch":
        torch.save({"state_dict": Code(tmp_path / "ran")}, folder / file)
    else:
        (folder / file).write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    try:
        create_vlm(f"local-dir:{folder}")
    except InputError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["model.bin", "open_clip_pytorch_model.bin", "model.pth", "a.safetensors"])
def test_no_weights_of_a_folder_run(tmp_path, file):
    folder = words_folder(tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    with pytest.raises(InputError):
        create_vlm(f"local-dir:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ending", ["npz", "npy", "pt", "pth", "bin", "ckpt", "safetensors", "pkl", "tar"])
def test_no_file_of_weights_runs(monkeypatch, tmp_path, ending):
    name = register(monkeypatch, tmp_path, {})
    path = tmp_path / f"weights.{ending}"
    if ending in ("npz", "npy"):
        held = np.array([Code(tmp_path / "ran")], dtype=object)
        np.savez(path, **{"params/t": held}) if ending == "npz" else np.save(path, held, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    for model in (name, "tiny"):
        with pytest.raises(InputError):
            create_vlm(model, path)
    assert not (tmp_path / "ran").exists()


def test_merges_that_a_folder_names_are_read_as_text(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with gzip.open(folder / "merges.gz", "wb") as file:
        file.write(pickle.dumps(Code(tmp_path / "ran")))
    text = {**SMALL["text_cfg"], "tokenizer_kwargs": {"bpe_path": str(folder / "merges.gz")}}
    settings = {"model_cfg": {**SMALL, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError):
        create_vlm(f"local-dir:{folder}", "random")
    assert not (tmp_path / "ran").exists()


def test_a_saved_models_folder_goes_through_the_same_checks(tmp_path):
    create_vlm("tiny").save(tmp_path / "saved")
    version = next((tmp_path / "saved").rglob("model.json")).parent
    description = read_description(version)
    text = description.base.origin.config["model_cfg"]["text_cfg"]
    for asked in ({"trust_remote_code": True}, {"auto_map": "own.Own"}):
        text["tokenizer_kwargs"] = asked
        write_description(version, description)
        with pytest.raises(InputError, match=r"model\.json(:| sets) .*(trust_remote_code|auto_map)"):
            load(tmp_path / "saved")


def test_no_file_of_a_saved_model_runs(tmp_path):
    create_vlm("tiny").save(tmp_path / "saved")
    version = next((tmp_path / "saved").rglob("model.json")).parent
    files = [path for path in version.rglob("*") if path.is_file()]
    assert len(files) > 1
    for path in files:
        before = path.read_bytes()
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
        with suppress(InputError):
            load(tmp_path / "saved")
        path.write_bytes(before)
    assert not (tmp_path / "ran").exists()
