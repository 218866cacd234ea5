"""Tables as spreadsheets, other systems and other tools save them."""

from __future__ import annotations

import json

import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import table_stream
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import read_rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.tiny import build_tokenizer

PAIRS = {"train_transform": transform, "eval_transform": transform, "tokenizer": build_tokenizer()}


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        save(tmp_path / "img" / f"{i}.png", picture(i, 20 + i, 30))
    return tmp_path


def captions(benchmark):
    return sorted(text for s in benchmark.streams.values() for e in s for text in raw(e.dataset).captions)


def labelled(separator):
    return "".join(
        f"{a}{separator}{b}\n" for a, b in [("image", "label"), *((f"img/{i}.png", "star") for i in range(4))]
    )


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.txt", ";")])
def test_the_header_says_what_separates_fields(folder, name, separator):
    (folder / name).write_text(labelled(separator))
    benchmark = table_stream(folder / name, **PAIRS)
    assert benchmark.protocol["n_train"] == [3] and benchmark.label_space.class_names == ("star",)
    said = [note for note in benchmark.data.notes if "separates its fields with" in note]
    assert len(said) == (name != "a.txt") and (not said or ("tabs" if separator == "\t" else separator) in said[0])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_wide_text_with_a_mark(folder, encoding):
    text = labelled(",").replace("star", "étoile").replace("\n", "\r\n")
    mark = "" if encoding == "utf-16" else "\ufeff"
    (folder / "a.csv").write_bytes((mark + text).encode(encoding))
    assert table_stream(folder / "a.csv", **PAIRS).label_space.class_names == ("étoile",)
    (folder / "a.csv").write_bytes(("\ufeff" + text).encode("utf-16-le")[:-1])
    with pytest.raises(InputError, match="is not UTF-16 text"):
        table_stream(folder / "a.csv", **PAIRS)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_without_a_mark_is_refused_and_what_to_do_is_said(folder, encoding):
    (folder / "a.csv").write_bytes(labelled(",").encode(encoding))
    with pytest.raises(
        InputError, match=r"a\.csv is no UTF-8 text, .* save it as UTF-8, as `iconv -f UTF-16LE -t UTF-8`"
    ):
        table_stream(folder / "a.csv", **PAIRS)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_mark_before_utf_8_is_no_text(folder, name):
    lines = "".join(f'{{"image": "img/{i}.png", "label": "étoile"}}\n' for i in range(4))
    text = labelled(",").replace("star", "étoile") if name == "a.csv" else lines
    (folder / name).write_bytes(text.encode("utf-8-sig"))
    assert table_stream(folder / name, **PAIRS).label_space.class_names == ("étoile",)


def test_folders_separated_as_on_windows(folder):
    (folder / "a.csv").write_text(labelled(",").replace("/", "\\"))
    paths = raw(table_stream(folder / "a.csv", **PAIRS).train_stream[0].dataset).images.paths
    assert {path.parent for path in paths} == {folder / "img"}


def test_a_name_with_a_backslash_is_that_file(folder):
    save(folder / "img\\0.png", picture(9))
    (folder / "a.csv").write_text(labelled(",").replace("img/0", "img\\0"))
    found = {path.name for s in ("train", "test") for path in raw(_only(folder, s).dataset).images.paths}
    assert "img\\0.png" in found


def _only(folder, stream):
    return table_stream(folder / "a.csv", **PAIRS).streams[stream][0]


@pytest.mark.parametrize("column", ["text", "caption", "captions", "sentences"])
def test_a_list_of_captions_is_as_many_rows(folder, column):
    lines = [json.dumps({"file_name": f"img/{i}.png", column: [f"red {i}", {"raw": f"blue {i}"}]}) for i in range(4)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    benchmark = table_stream(folder / "a.jsonl", **PAIRS)
    assert captions(benchmark) == sorted(f"{colour} {i}" for i in range(4) for colour in ("red", "blue"))
    (folder / "a.jsonl").write_text("\n".join([*lines[:3], json.dumps({"file_name": "img/3.png", column: []})]))
    with pytest.raises(InputError, match="row 4: the caption is empty"):
        table_stream(folder / "a.jsonl", **PAIRS)


def test_ids_of_images_are_numbers_or_text(folder):
    images = [{"id": i, "file_name": f"img/{i}.png"} for i in range(4)]
    annotations = [{"image_id": str(i), "caption": f"star {i}"} for i in range(4)]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    assert len(captions(table_stream(folder / "a.json", **PAIRS))) == 4
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": [{"caption": "none"}]}))
    with pytest.raises(InputError, match="no image with the id None"):
        table_stream(folder / "a.json", **PAIRS)


@pytest.mark.parametrize("name", ["captions.txt", "a.csv"])
def test_commas_without_quotes_belong_to_the_caption(folder, name):
    rows = [f"img/{i}.png,a star , red, {i}" for i in range(3)] + ['img/3.png,"quoted, 3"']
    (folder / name).write_text("\n".join(["image,caption", *rows]))
    benchmark = table_stream(folder / name, **PAIRS)
    assert captions(benchmark) == ["a star , red, 0", "a star , red, 1", "a star , red, 2", "quoted, 3"]
    assert any("3 rows with ',' in a text without quotes" in note for note in benchmark.data.notes)


def test_too_many_fields_elsewhere_are_a_broken_row(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,label\nx.png,a, b,star\n")
    with pytest.raises(InputError, match="row 2: 4 fields where the header has 3"):
        list(read_rows(tmp_path / "a.csv", Problems("raise")))
