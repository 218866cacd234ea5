"""One picture on both sides of a split is kept together where the split is ours, and counted where it is not."""

from __future__ import annotations

import os
import shutil
import warnings
from itertools import cycle

import numpy as np
import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import image_folder_stream, table_stream
from avalanche_vlm.benchmarks.sources import same_images as same_files
from avalanche_vlm.benchmarks.sources.same_images import same_images
from avalanche_vlm.errors import DataWarning
from avalanche_vlm.models.tiny import build_tokenizer

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}
PAIRS = {**TRANSFORMS, "tokenizer": build_tokenizer()}


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        save(tmp_path / "img" / f"{i}.png", picture(i, 20 + i, 30))
    return tmp_path


def table(folder, header, rows):
    path = folder / "data.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def contents(stream):
    return {path.read_bytes() for e in stream for path in raw(e.dataset).images.paths}


def test_paths_links_and_copies_are_one_picture(folder):
    first = folder / "img/0.png"
    copy, link, other = folder / "copy.png", folder / "link.png", folder / "img/1.png"
    shutil.copy(first, copy)
    os.symlink(first, link)
    padded = folder / "padded.bmp"  # equal in length and different in content
    padded.write_bytes(first.read_bytes()[:-1] + b"x")
    detour, alone = str(folder / "img") + "/../img/0.png", [first, other, padded]
    assert same_images([first, copy, link, detour, other, padded]) == {str(p): str(first) for p in (copy, link, detour)}
    assert same_images([link, copy, first]) == {str(copy): str(link), str(first): str(link)}
    assert same_images(alone) == same_images([]) == {}


def test_values_that_come_again_and_the_first_of_each_are_found(monkeypatch):
    monkeypatch.setattr(same_files, "_TOGETHER", 3)
    draw = np.random.default_rng(0)
    for _ in range(200):
        one, two = draw.integers(0, 5, (2, draw.integers(0, 12)))
        assert same_files._several(one).tolist() == [(one == value).sum() > 1 for value in one]
        pairs = list(zip(one.tolist(), two.tolist(), strict=True))
        assert same_files._first_alike([one, two]).tolist() == [pairs.index(pair) for pair in pairs]


def test_large_files_that_differ_in_the_middle_are_two(tmp_path):
    for name, middle in (("a", b"a"), ("b", b"b")):
        (tmp_path / name).write_bytes(b"0" * (1 << 20) + middle + b"0" * (1 << 20))
    assert same_images([tmp_path / "a", tmp_path / "b"]) == {}
    os.symlink(tmp_path / "b", tmp_path / "c")
    shutil.copy(tmp_path / "b", tmp_path / "0")
    assert same_images([tmp_path / name for name in "ca0b"]) == {
        str(tmp_path / name): str(tmp_path / "c") for name in "0b"
    }


@pytest.mark.parametrize("text", ["label", "caption"])
def test_a_split_of_the_users_with_pictures_on_both_sides_is_counted(folder, text):
    rows = [f"img/{i}.png,star,{split}" for split in ("train", "test") for i in range(4 if split == "test" else 10)]
    with pytest.warns(DataWarning, match="4 images are both trained and tested"):
        benchmark = table_stream(table(folder, f"image,{text},split", rows), **PAIRS)
    assert sum("4 images are both trained and tested (by path or by content)" in n for n in benchmark.data.notes) == 1


def test_an_image_of_two_classes_or_two_tasks_is_on_one_side_of_a_random_split(folder):
    rows = [f"img/{i}.png,{c},{t}" for t in "xy" for c in ("star", "ring") for i in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        benchmark = table_stream(table(folder, "image,label,task", rows), **TRANSFORMS)
    assert not contents(benchmark.train_stream) & contents(benchmark.test_stream)
    assert benchmark.protocol["n_test"] == [4, 4]
    assert any("10 images are in more than one class" in note for note in benchmark.data.notes)
    other = table_stream(folder / "data.csv", order=["y", "x"], **TRANSFORMS)
    assert contents(other.test_stream) == contents(benchmark.test_stream)


def test_a_random_split_goes_with_the_rows_that_have_one(folder):
    rows = [f"img/{i}.png,a star {i},train" for i in range(5)] + [f"img/{i}.png,one star {i}," for i in range(10)]
    benchmark = table_stream(table(folder, "image,caption,split", rows), **PAIRS)
    assert not contents(benchmark.train_stream) & contents(benchmark.test_stream)
    assert benchmark.protocol["n_test"] == [2]


def test_a_class_folder_that_is_a_link_to_another_is_noted(folder):
    for label, start in (("star", 0), ("ring", 5)):
        for i in range(5):
            shutil.copy(folder / "img" / f"{start + i}.png", save(folder / "data" / label / f"{i}.png", picture(1)))
    os.symlink(folder / "data/star", folder / "data/alias")
    benchmark = image_folder_stream(folder / "data", **TRANSFORMS)
    assert any(
        "5 images are in more than one class" in note and "'alias' and 'star'" in note for note in benchmark.data.notes
    )
    assert not contents(benchmark.train_stream) & contents(benchmark.test_stream)


def test_pictures_of_one_side_are_no_news(folder):
    rows = [f"img/{i}.png,{c}" for i, c in zip(range(10), cycle(["star", "ring"]), strict=False)]
    assert table_stream(table(folder, "image,label", rows), **TRANSFORMS).data.notes == []
