"""Exports: where they go, a hub's folder, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from saved import CLASSES, saved_lora, saved_tiny, tiny_with_classes
from trained import short_stream, train

from avalanche_vlm import cli
from avalanche_vlm.artifacts import export, load, open_saved, save_model
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm

RESULT = {
    "protocol": {
        "benchmark": "birds",
        "label_space": "union",
        "data": {"path": "/home/ann/secret/birds"},
        "train": {"lr": 1e-3, "amp": None},
    },
    "tasks": ["land | sea", "night"],
    "matrix": [[20.0, 30.0], [80.0, 25.0], [70.0, 90.5]],
    "held_out": {"captions R@1": [90.0, 85.0, 81.5]},
    "alignment": {},
    "metrics": {"last": 80.25, "forget": 10.0, "zsd": 5.0, "transfer": None},
}
LEDGER = {"stored_ram_bytes": 2048, "stored_disk_bytes": 0, "trainable_parameters": 12345, "task_id_needed": False}


def saved_with_result(folder: Path) -> Path:
    save_model(folder, tiny_with_classes(), result=RESULT, ledger=LEDGER, about={"note": "/home/ann/notes.txt"})
    return folder


def test_a_folder_that_is_there_is_refused_and_an_empty_one_is_taken(tmp_path):
    saved_tiny(tmp_path / "saved")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for to in ("open_clip", "hub-folder"):
        with pytest.raises(InputError, match="full is there already: nothing was written to it"):
            export(tmp_path / "saved", to, full)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (export(tmp_path / "saved", "open_clip", tmp_path / "empty").folder / "open_clip_config.json").is_file()


def test_what_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    from avalanche_vlm.artifacts import merging

    def fail(*_):
        raise OSError(28, "No space left on device")

    saved_tiny(tmp_path / "saved")
    monkeypatch.setattr(merging, "write_open_clip", fail)
    with pytest.raises(InputError, match="No space left on device"):
        export(tmp_path / "saved", "open_clip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize(
    ("to", "options", "sentence"),
    [
        ("onnx", {}, "a model is exported to open_clip, peft, hub-folder, torch-export, not to 'onnx'"),
        ("hub-folder", {"module": "task_0"}, "has all modules of the model: leave out module"),
        ("peft", {}, "tiny has no modules, and peft's files hold LoRA and DoRA alone"),
    ],
)
def test_what_cannot_be_exported_is_told(tmp_path, to, options, sentence):
    saved_tiny(tmp_path / "saved")
    with pytest.raises(InputError, match=sentence):
        export(tmp_path / "saved", to, tmp_path / "out", **options)
    with pytest.raises(InputError, match="save it first"):
        export(tiny_with_classes(), "hub-folder", tmp_path / "out")


def test_every_lora_has_its_folder_of_pefts(tmp_path):
    saved_lora(tmp_path / "saved")
    found = export(tmp_path / "saved", "peft", tmp_path / "out")
    assert sorted(path.name for path in found.folder.iterdir()) == ["task_0", "task_1"]
    one = export(tmp_path / "saved", "peft", tmp_path / "one", module="task_1")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one.folder / name).read_bytes() == (found.folder / "task_1" / name).read_bytes()


# A hub's folder -----------------------------------------------------------------------------------------------------


def head_of(card: str) -> dict[str, object]:
    """What the head of a model card says, as YAML reads it."""
    yaml = pytest.importorskip("yaml")
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_a_hubs_folder_loads_and_predicts_the_same(tmp_path):
    images = torch.randn(4, 3, 32, 32)
    for name, make in (("tiny", saved_tiny), ("lora", saved_lora)):
        make(tmp_path / name)
        found = export(tmp_path / name, "hub-folder", tmp_path / f"{name} hub")
        assert load(found.folder).predict(images) == load(tmp_path / name).predict(images)


def test_the_card_says_what_was_measured_and_what_was_lost(tmp_path):
    saved_with_result(tmp_path / "saved")
    card = (export(tmp_path / "saved", "hub-folder", tmp_path / "out").folder / "README.md").read_text()
    head = head_of(card)
    assert head["license"] is None and head["library_name"] == "open_clip" and head["datasets"] == ["birds"]
    assert {"avalanche-vlm", "continual-learning"} <= set(head["tags"])
    for expected in (
        "| Last: mean over the tasks after the last one | 80.2 |",
        "|  | land \\| sea | night |",
        "| the base | 20.0 | 30.0 |",
        "| after night | 70.0 | 90.5 |",
        "| captions R@1 | 90.0 | 81.5 |",
        "lost 10.0 points on earlier tasks",
        "it is 8.5 points below its base",
        "lost 5.0 points on tasks before they were trained",
        "It knows 5 classes by name",
        "No samples of the data that it was trained on are in this folder.",
        "| stored between tasks | 2.0 KiB |",
        "| parameters that trained | 12,345 |",
        ", ".join(CLASSES),
        "`a photo of a {}.`",
        "lr 0.001",
    ):
        assert expected in card, expected


def test_what_was_not_measured_is_not_claimed(tmp_path):
    saved_tiny(tmp_path / "saved")
    card = (export(tmp_path / "saved", "hub-folder", tmp_path / "out").folder / "README.md").read_text()
    assert "Nothing was measured when it was saved." in card and "points" not in card and "cost" not in card
    assert "datasets" not in head_of(card)


def test_paths_of_this_machine_are_not_told(tmp_path):
    saved_with_result(tmp_path / "saved")
    found = export(tmp_path / "saved", "hub-folder", tmp_path / "out").folder
    for file in found.iterdir():
        if file.suffix in (".json", ".md"):
            assert "ann" not in file.read_text() and str(tmp_path) not in file.read_text()
    assert open_saved(found).description.protocol["data"] == {"path": "birds"}
    assert open_saved(found).description.about == {"note": "notes.txt"}


@pytest.mark.slow
def test_the_state_of_training_stays_behind_with_the_pictures_in_it(tmp_path):
    trained = train("replay", short_stream("classes"), create_vlm)
    save_model(tmp_path / "saved", trained.model, **trained.how)
    assert open_saved(tmp_path / "saved").description.raw_data is True
    found = export(tmp_path / "saved", "hub-folder", tmp_path / "out")
    assert any("the state of training stays behind" in sentence for sentence in found.sentences)
    assert not (found.folder / "training.json").exists() and not (found.folder / "objects").exists()
    assert open_saved(found.folder).description.raw_data is False
    weights = sum(path.stat().st_size for path in found.folder.rglob("*.safetensors"))
    assert weights < 1.1 * sum(p.numel() * 4 for p in trained.model.parameters())
    images = torch.randn(4, 3, 32, 32)
    assert load(found.folder).predict(images) == load(tmp_path / "saved").predict(images)


def test_a_base_that_lies_on_this_machine_alone_comes_along(tmp_path):
    from safetensors.torch import save_file

    weights = tmp_path / "here/weights.safetensors"
    weights.parent.mkdir()
    save_file({n: t.contiguous() for n, t in create_vlm("tiny", "random").clip.state_dict().items()}, weights)
    model = create_vlm("tiny", weights).eval()
    save_model(tmp_path / "saved", model)
    found = export(tmp_path / "saved", "hub-folder", tmp_path / "out")
    assert any("the base comes along" in sentence for sentence in found.sentences)
    images = torch.randn(4, 3, 32, 32)
    expected = load(tmp_path / "saved").encode_image(images)
    weights.unlink()
    assert torch.equal(load(found.folder).encode_image(images), expected)
    assert str(tmp_path) not in (found.folder / "model.json").read_text()


def test_a_file_that_was_changed_is_not_passed_on(tmp_path):
    saved_tiny(tmp_path / "saved")
    weights = tmp_path / "saved/model/open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="was changed since the model was saved"):
        export(tmp_path / "saved", "hub-folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command --------------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_written_and_how_far_it_is(tmp_path, capsys):
    saved_tiny(tmp_path / "saved")
    assert cli.main(["export", str(tmp_path / "saved"), "--to", "open_clip", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("features of images are at most ") and said[-1] == f"written to {tmp_path / 'out'}"
    assert json.loads((tmp_path / "out/open_clip_config.json").read_text())["model_cfg"]
    assert cli.main(["export", str(tmp_path / "saved"), "--to", "open_clip", "--out", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "none"), "--to", "peft", "--out", str(tmp_path / "new")]) == 2
    assert "there is no saved model at" in capsys.readouterr().err and not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "saved"), "--to", "onnx", "--out", "x"])


def test_the_words_of_the_command_are_the_librarys():
    from avalanche_vlm.artifacts.exporting import TARGETS
    from avalanche_vlm.commands.arguments.deploying import TARGETS as words

    assert tuple(TARGETS) == words
