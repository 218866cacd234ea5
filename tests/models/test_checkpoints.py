"""What is found in the place of a checkpoint, and TorchScript archives, of which nothing is executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
import torch
from open_clip_small import SMALL, openai_archive, register, small_clip
from safetensors.torch import save_file

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.checkpoints import inspect_checkpoint, read_pickled, read_weights
from avalanche_vlm.models.tiny import WEIGHTS


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 605000000\n"
PLACES = {
    "pointer": (POINTER.encode(), "is a Git LFS pointer .*git lfs pull"),
    "page": (b"\n<!DOCTYPE html>\n<html lang='en'>", "is a web page in the place of a checkpoint"),
    "page without type": (b"<html><body>Not found", "is a web page"),
    "empty": (b"", "is empty"),
    "text": (b"404: Not Found", "is a text file, not a checkpoint"),
    "noise": (bytes(range(256)) * 4, "is not a checkpoint, or is damaged|is truncated or damaged"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("name", ["small", "tiny"])
def test_what_is_no_checkpoint_is_named(monkeypatch, tmp_path, place, ending, name):
    register(monkeypatch, tmp_path, {})
    content, sentence = PLACES[place]
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    if place == "noise" and ending == "safetensors":
        sentence = "is not a readable safetensors file"
    with pytest.raises(InputError, match=rf"weights\.{ending} ({sentence})") as error:
        create_vlm(name, path)
    assert "\n" not in str(error.value)


def test_a_side_that_no_tensor_has_is_one_sentence(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"a\.safetensors is not a readable safetensors file") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_an_archive_whose_list_of_files_is_damaged_is_named(tmp_path):
    torch.save({"a": torch.ones(2)}, path := tmp_path / "a.pt")
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    path.write_bytes(content[: at + 46] + b"\xe5\xff" + content[at + 48 :])
    for read in (inspect_checkpoint, read_weights):
        with pytest.raises(InputError, match=r"a\.pt is truncated or damaged"):
            read(path)


def test_an_archive_whose_end_names_another_disk_is_named(tmp_path):
    torch.save({"a": torch.ones(2)}, path := tmp_path / "a.pt")
    content, end = (
        path.read_bytes(),
        b"PK\6\7" + (7).to_bytes(4, "little") + (0).to_bytes(8, "little") + bytes([9, 0, 0, 0]),
    )
    at = content.rindex(b"PK\5\6")
    path.write_bytes(content[:at].removesuffix(content[at - 20 : at]) + end + content[at:])
    for read in (inspect_checkpoint, read_weights):
        with pytest.raises(InputError, match=r"a\.pt is truncated or damaged"):
            read(path)


def test_a_folder_and_a_truncated_file_are_named(monkeypatch, tmp_path):
    register(monkeypatch, tmp_path, {})
    with pytest.raises(InputError, match=r"is a folder, not a checkpoint file: .*local-dir:"):
        create_vlm("small", tmp_path)
    state = small_clip().state_dict()
    torch.save(state, tmp_path / "whole.pt")
    save_file(state, tmp_path / "whole.safetensors")
    openai_archive(small_clip(True), tmp_path / "archive.pt")
    for name in ("whole.pt", "whole.safetensors", "archive.pt"):
        content = (tmp_path / name).read_bytes()
        for part in (0.1, 0.5, 0.99):
            (tmp_path / f"cut-{name}").write_bytes(content[: int(part * len(content))])
            with pytest.raises(InputError, match=f"cut-{name} is (truncated|not a|a damaged)") as error:
                create_vlm("small", tmp_path / f"cut-{name}")
            assert "\n" not in str(error.value)


def test_weights_of_another_model_are_counted_and_not_listed(monkeypatch, tmp_path):
    register(monkeypatch, tmp_path, {}, quick=False)
    with pytest.raises(InputError, match="those of another architecture"):
        create_vlm("small", WEIGHTS)
    state = small_clip().state_dict()
    renamed = {name.replace("resblocks", "layers"): tensor for name, tensor in state.items()}
    save_file(renamed, tmp_path / "renamed.safetensors")
    with pytest.raises(InputError, match=r"it lacks 24 tensors \(.*, \.\.\.\); it has no use for 24 tensors") as error:
        create_vlm("small", tmp_path / "renamed.safetensors")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    save_file({"vision_model.layer.weight": torch.zeros(2)}, tmp_path / "keys.safetensors")
    with pytest.raises(InputError, match=r"it has no use for 1 tensor \(vision_model\.layer\.weight\)"):
        create_vlm("small", tmp_path / "keys.safetensors")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"none\.pt holds no weights"):
        create_vlm("small", tmp_path / "none.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_wants_code_is_refused_unopened(monkeypatch, tmp_path):
    register(monkeypatch, tmp_path, {})
    torch.save({"state_dict": Code(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "old.bin").write_bytes(pickle.dumps(Code(tmp_path / "ran"), protocol=2))
    (tmp_path / "new.bin").write_bytes(pickle.dumps(Code(tmp_path / "ran"), protocol=4))
    for name in ("evil.pt", "old.bin"):
        with pytest.raises(InputError, match=rf"{name} is a pickle that asks for posix\.mkdir, which could run code"):
            create_vlm("small", tmp_path / name)
    with pytest.raises(InputError, match=r"new\.bin is not a checkpoint, or .*: it cannot be read without running"):
        create_vlm("small", tmp_path / "new.bin")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (folder / "open_clip_pytorch_model.bin").write_text(POINTER)
    with pytest.raises(InputError, match=r"open_clip_pytorch_model\.bin is a Git LFS pointer"):
        create_vlm(f"local-dir:{folder}")
    assert not (tmp_path / "ran").exists()


def archive_with(tmp_path, replaced: dict[str, bytes]):
    """OpenAI's archive with records changed."""
    openai_archive(small_clip(True), tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for record in good.infolist():
            short = record.filename.split("/", 1)[1]
            bad.writestr(record, replaced.get(short, good.read(record)))
    return tmp_path / "bad.pt"


def test_an_archive_that_wants_more_than_tensors_is_refused_unexecuted(tmp_path):
    bad = archive_with(tmp_path, {"data.pkl": pickle.dumps(Code(tmp_path / "ran"))})
    with pytest.raises(InputError, match=r"bad\.pt is a TorchScript archive that holds more .*posix\.mkdir"):
        inspect_checkpoint(bad)
    bad = archive_with(tmp_path, {"data/0": b"short"})
    with pytest.raises(InputError, match=r"its storage 0 has 5 bytes where \d+ are announced"):
        read_weights(bad)
    bad = archive_with(tmp_path, {"data.pkl": pickle.dumps({"a": 1})})
    with pytest.raises(InputError, match="holds a dict and no module"):
        read_weights(bad)
    assert not (tmp_path / "ran").exists()


class WithState(torch.nn.Module):
    """A module whose archive has code that runs when torch loads it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3).T)
        self.register_buffer("count", torch.tensor(3))
        self.plain = torch.ones(2)
        self.act = torch.nn.GELU()

    def forward(self, x):
        return self.act(x @ self.weight) + self.plain[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_archive_gives_what_torch_would_load(tmp_path):
    module = WithState()
    example = torch.randn(4, 3)
    for kind, scripted in (("script", torch.jit.script(module)), ("trace", torch.jit.trace(module, example))):
        scripted.save(str(tmp_path / f"{kind}.pt"))
        expected = torch.jit.load(io.BytesIO((tmp_path / f"{kind}.pt").read_bytes())).state_dict()
        checkpoint = inspect_checkpoint(tmp_path / f"{kind}.pt")
        assert set(checkpoint.tensors) == set(expected) == {"weight", "count"} and checkpoint.quick_gelu is False
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.tensors[name], tensor) and checkpoint.tensors[name].dtype == tensor.dtype


def test_open_clips_own_checkpoint_with_its_optimizer(monkeypatch, tmp_path):
    clip = small_clip()
    state = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_1.pt")
    register(monkeypatch, tmp_path, {}, quick=False)
    vlm = create_vlm("small", tmp_path / "epoch_1.pt")
    assert torch.equal(vlm.clip.visual.proj, clip.visual.proj)
    assert vlm.clip.visual.image_size == (SMALL["vision_cfg"]["image_size"],) * 2


@pytest.mark.parametrize("archive", [True, False])
def test_a_name_that_torch_would_search_for_seconds_is_refused_before(tmp_path, monkeypatch, archive):
    path = tmp_path / "a.pt"
    asks = b"\x80\x02ccollections\n" + b"OrderedDict" * 2000 + b"\n)R."
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", asks)
    else:
        path.write_bytes(b"\x80\x02I1\n." + asks)
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("torch has it"))
    with pytest.raises(InputError, match=r"a\.pt is a pickle that asks for a class whose name has 22012 letters"):
        read_pickled(path)
