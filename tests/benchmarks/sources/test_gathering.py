"""Images in files, folders and tables, found one after another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from real_files import save

from avalanche_vlm.benchmarks.sources.gathering import gathered, is_table
from avalanche_vlm.benchmarks.sources.images import read_image
from avalanche_vlm.errors import InputError


def names(*paths: Path, **options) -> list[str]:
    return [found.name for found in gathered(paths, **options)]


def problems(*paths: Path, **options) -> list[str]:
    return [found.problem for found in gathered(paths, **options) if found.problem]


def test_folders_give_their_images_in_natural_order_files_first(tmp_path):
    for name in ("10.png", "2.JPG", "b/1.webp", "a/9.png", "a/10.png", ".hidden.png", ".cache/1.png", "notes.txt"):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    found = [Path(name).relative_to(tmp_path).as_posix() for name in names(tmp_path)]
    assert found == ["2.JPG", "10.png", "a/9.png", "a/10.png", "b/1.webp"]
    assert all(entry.path == Path(entry.name) for entry in gathered([tmp_path]))


def test_places_come_in_the_order_in_which_they_are_named_and_files_may_be_called_anything(tmp_path):
    save(tmp_path / "pictures/1.png")
    other = tmp_path / "picture without a suffix"
    assert names(other, tmp_path / "pictures", other) == [str(other), str(tmp_path / "pictures/1.png"), str(other)]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    save(tmp_path / "elsewhere/1.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "here")
    (tmp_path / "here/gone.png").symlink_to(tmp_path / "nothing")
    found = names(tmp_path / "here")
    assert found == [str(tmp_path / "here/gone.png"), str(tmp_path / "here/link/1.png")]


def test_a_folder_without_images_is_told_as_is_one_that_cannot_be_entered(tmp_path):
    (tmp_path / "empty/deep").mkdir(parents=True)
    (entry,) = gathered([tmp_path / "empty"])
    assert entry == (str(tmp_path / "empty"), None, f"there is no image in the folder {tmp_path / 'empty'}")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o000)
        assert problems(tmp_path / "closed") == [f"cannot read the folder {tmp_path / 'closed'}: Permission denied"]


def test_what_lies_in_a_closed_folder_is_an_image_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert problems(tmp_path) == [f"cannot read the folder {tmp_path}: Permission denied"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_every_row_of_a_table_is_an_image_called_as_the_table_calls_it(tmp_path, suffix):
    table = tmp_path / f"new month{suffix}"
    if suffix == ".jsonl":
        table.write_text('{"image": "a/ü.png", "label": "x"}\n{"image": "b.png"}\n{"image": "b.png"}\n')
    else:
        sign = "," if suffix == ".csv" else "\t"
        table.write_text(f"image{sign}label\na/ü.png{sign}x\nb.png{sign}y\nb.png{sign}z\n")
    found = list(gathered([table]))
    assert [entry.name for entry in found] == ["a/ü.png", "b.png", "b.png"]
    assert [entry.path for entry in found] == [tmp_path / "a/ü.png", tmp_path / "b.png", tmp_path / "b.png"]


def test_columns_and_folders_of_tables_can_be_named(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("photo,file_name\n1.png,2.png\n")
    assert names(table) == ["2.png"]
    (entry,) = gathered([table], image_column="photo", image_root=tmp_path / "root")
    assert entry == ("1.png", tmp_path / "root/1.png", None)


def test_rows_that_are_none_take_no_others_with_them(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,label\na.png,x\n,y\nb.png\nc.png,z\n")
    found = list(gathered([table]))
    assert [entry.name for entry in found if entry.path] == ["a.png", "c.png"]
    assert [entry.problem for entry in found if entry.problem] == [
        f"{table}, row 3: the image is missing",
        f"{table}, row 4: 1 fields where the header has 2",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no usable rows"),
        ("image\n", "has no usable rows"),
        ("picture,label\na.png,x\n", "has no column 'image'; it has label, picture"),
        ('image\n"a.png\n', "a quoted field is not closed"),
        (b"image\n\xff\xfea.png\n", "is not UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, content, sentence):
    table = tmp_path / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    (entry,) = gathered([table])
    assert entry.path is None and sentence in entry.problem and str(table) in entry.problem


def test_a_table_that_is_not_there_is_told(tmp_path):
    assert problems(tmp_path / "none.csv") == [f"there is no table at {tmp_path / 'none.csv'}"]


def test_tables_are_told_by_their_suffix():
    names = ("a.csv", "b.TSV", "c.jsonl", "d.json", "e.png", "f", ".csv.png")
    assert [name for name in names if is_table(Path(name))] == ["a.csv", "b.TSV", "c.jsonl", "d.json"]


def test_nothing_is_looked_for_before_it_is_asked_for(tmp_path):
    save(tmp_path / "a/1.png")
    found = gathered([tmp_path / "a", tmp_path / "b"])
    assert next(found).path == tmp_path / "a/1.png"
    save(tmp_path / "b/2.png")  # after the first was given
    assert next(found).path == tmp_path / "b/2.png"


def test_a_name_in_a_table_that_no_disk_takes_is_told_of_its_row(tmp_path):
    (tmp_path / "t.csv").write_text("image\n" + "a" * 300 + "\\b.png\n")
    (found,) = gathered([tmp_path / "t.csv"])
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_image(found.path)
