"""Held-out sets by name and path, on miniature files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import real_formats
import torch
from real_files import picture, save

from avalanche_vlm.benchmarks.aside import aside_names, open_aside, published_aside, refuse_no_aside
from avalanche_vlm.benchmarks.sources.aside import AsideReading
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import captions_of, images_of_rows
from avalanche_vlm.models.tiny import build_tokenizer

EVAL = ImageTransform(32, (0.5,) * 3, (0.5,) * 3)
MODEL = SimpleNamespace(transforms=SimpleNamespace(train=None, eval=EVAL), tokenizer=build_tokenizer())


def opened(*given, root: Path | None = None, on_error: str = "raise"):
    """Held-out sets and what was said of them."""
    reading = AsideReading(MODEL, Problems(on_error), check_workers=0)
    return open_aside([str(one) for one in given], root, reading), reading.problems


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("aside")
    real_formats.coco_karpathy(root)
    real_formats.TORCHVISION["food101"](root)
    real_formats.TORCHVISION["eurosat"](root)
    real_formats.TORCHVISION["mnist"](root)
    return root


def table(path: Path, rows: list[dict]) -> Path:
    """A table of pictures that lie beside it."""
    for row in rows:
        save(path.parent / row["image"], picture(len(row["image"])))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_published_captions_are_those_of_the_test_part(root):
    (found,), problems = opened("coco-karpathy", root=root)
    assert found.name == "coco-karpathy" and found.label_space is None and len(found.dataset) == 15
    pair, y = found.dataset[0]
    assert pair.image.shape[0] == 3 and images_of_rows(torch.tensor(found.dataset.targets)).unique().numel() == 3
    assert int(y) == found.dataset.targets[0] and not problems.skipped
    assert not any("published" in note for note in problems.notes)


def test_published_classes_come_with_their_names_and_prompts(root):
    (food, land, digits), problems = opened("food101", "eurosat", "mnist", root=root)
    assert food.label_space.templates[0].templates == ("a photo of a {}, a type of food.",)
    assert food.label_space.visible == "union" and len(food.dataset) == 6
    assert len(land.dataset) == 6  # a fifth of 30, as ZSCL draws it
    assert digits.dataset[0][0].shape == food.dataset[0][0].shape and digits.label_space.class_names[0] == "0 - zero"
    assert all(note.startswith("held-out set ") for note in problems.notes)


def test_the_test_part_of_a_table_is_measured_and_all_of_one_without_parts(tmp_path):
    rows = [{"image": f"{n}.png", "label": label} for n, label in enumerate(("red", "red", "blue"))]
    (whole,), _ = opened(table(tmp_path / "whole.jsonl", rows))
    assert whole.name == "whole" and whole.dataset.targets == [1, 1, 0]  # one image of a class is enough
    assert whole.label_space.class_names == ("blue", "red")
    parts = [{**row, "split": split} for row, split in zip(rows, ("train", "test", "test"), strict=True)]
    (tested,), _ = opened(table(tmp_path / "parts.jsonl", parts))
    assert tested.dataset.targets == [1, 0]
    with pytest.raises(InputError, match="has training samples alone"):
        opened(table(tmp_path / "trained.jsonl", [{**row, "split": "train"} for row in rows]))
    tasks = [{**row, "task": task} for row, task in zip(rows, ("may", "may", "june"), strict=True)]
    assert [of.name for of in opened(table(tmp_path / "months.jsonl", tasks))[0]] == ["months may", "months june"]
    captions = [{**row, "caption": f"a {row['label']} thing"} for row in rows]
    (pairs,), _ = opened(table(tmp_path / "both.jsonl", captions))
    y = torch.tensor(pairs.dataset.targets)
    assert pairs.label_space is None and captions_of(y).tolist() == [0, 0, 1]


def test_class_folders_are_measured_whole_unless_they_have_a_test_part(tmp_path):
    real_formats.class_folders(tmp_path / "plain", ["grey_wolf", "10"], 2)
    real_formats.class_folders(tmp_path / "parts/train", ["a", "b"], 3)
    real_formats.class_folders(tmp_path / "parts/val", ["a", "b"], 1)
    (plain, parts), _ = opened(tmp_path / "plain", tmp_path / "parts")
    assert plain.label_space.class_names == ("10", "grey wolf") and len(plain.dataset) == 4
    assert (plain.name, parts.name, len(parts.dataset)) == ("plain", "parts", 2)
    (described,), _ = opened(hub_folder(tmp_path))
    assert described.label_space is None and len(described.dataset) == 3


def hub_folder(root: Path) -> Path:
    """A folder with a table of captions."""
    real_formats.described(root, "hub", 3)
    return root / "hub"


def test_images_that_cannot_be_read_are_named_or_left_out(root, tmp_path):
    rows = [{"image": f"{n}.png", "label": "a"} for n in range(3)]
    path = table(tmp_path / "mine.jsonl", rows)
    (tmp_path / "1.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"mine\.jsonl, row 2: .*1\.png is not an image"):
        opened(path)
    (left,), problems = opened(path, on_error="skip")
    assert len(left.dataset) == 2 and len(problems.skipped) == 1
    listed = list(json.loads((root / "food-101/meta/test.json").read_text()).values())
    tested = root / f"food-101/images/{listed[0][0]}.jpg"
    content = tested.read_bytes()
    tested.write_bytes(b"none")
    try:
        with pytest.raises(InputError, match=rf"^held-out set food101: .*{tested.name}"):
            opened("food101", root=root)
        assert len(opened("food101", root=root, on_error="skip")[0][0].dataset) == 5
    finally:
        tested.write_bytes(content)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["coco-karpathi"],
            "there is no file or folder at coco-karpathi, nor is that the name of a published data set",
        ),
        (
            ["imagenet"],
            "--held-out imagenet is a published data set: name the folder that it lies in with --held-out-r",
        ),
        (["imagenet", "ROOT"], "has no imagenet/train: it should be the folder of 1,000 class folders"),
        (["coco-karpathy", "coco-karpathy", "ROOT"], "two held-out sets are called 'coco-karpathy': rename one"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(root, given, sentence):
    known = root if given[-1] == "ROOT" else None
    with pytest.raises(InputError) as caught:
        opened(*(of for of in given if of != "ROOT"), root=known)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "make"), [("core50", real_formats.core50), ("clear10", real_formats.clear)])
def test_a_set_with_a_test_part_for_each_step_is_measured_over_all_of_them(tmp_path, name, make):
    make(tmp_path)
    ((measured,), _) = opened(name, root=tmp_path)
    parts = published_aside(name).load(tmp_path).parts
    assert len(measured.dataset) == sum(len(of) for part, of in parts.items() if part.startswith("test")) > 0


def test_every_published_set_can_be_named():
    names = aside_names()
    assert {"coco-karpathy", "flickr30k", "imagenet", "cifar100", "objectnet-folders"} <= set(names)
    assert len(names) == len(set(names))
    with pytest.raises(InputError, match="is no table that can be read"):
        refuse_no_aside([__file__], None)
