"""A user's table becomes a stream or reference pairs, or one sentence names the row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_files import picture, raw, save, transform, truncate
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, pairs_stream, reference_table, table_stream
from avalanche_vlm.benchmarks.sources.assemble import split_indices
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import read_rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import captions_of, images_of_rows
from avalanche_vlm.models.tiny import build_tokenizer

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}
PAIRS = {**TRANSFORMS, "tokenizer": build_tokenizer()}


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(10):
        save(tmp_path / "img" / f"{i}.png", picture(i, 20 + i, 30))
    return tmp_path


def table(folder: Path, rows: list[dict], name: str = "data.csv") -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def labelled(n: int = 10) -> list[dict]:
    return [{"image": f"img/{i}.png", "label": ("cat", "dog")[i % 2], "task": f"t{i // 5}"} for i in range(n)]


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl"])
def test_a_labelled_table(folder, name):
    benchmark = table_stream(table(folder, labelled(), name), **TRANSFORMS)
    assert benchmark.kind == "classes" and benchmark.task_names == ("t0", "t1")
    assert benchmark.label_space.class_names == ("cat", "dog", "cat", "dog")
    x, y, t = next(iter(DataLoader(benchmark.train_stream[1].dataset, batch_size=8)))
    assert x.shape[1:] == (3, 32, 32) and set(y.tolist()) == {2, 3} and set(t.tolist()) == {1}
    assert sum(benchmark.protocol["n_train"]) + sum(benchmark.protocol["n_test"]) == 10


def test_a_captioned_table_makes_pairs(folder):
    rows = [{"image": f"img/{i}.png", "caption": f"a red star, {i // 2}"} for i in range(10)]
    benchmark = pairs_stream(table(folder, rows), **PAIRS)
    assert benchmark.kind == "pairs" and benchmark.label_space is None and benchmark.task_names == ("all",)
    x, y, _ = next(iter(DataLoader(benchmark.train_stream[0].dataset, batch_size=8)))
    assert isinstance(x, ImageText) and x.image.shape == (8, 3, 32, 32) and x.tokens.shape == (8, 20)
    same_text = (x.tokens[:, None] == x.tokens[None]).all(-1)
    assert (same_text == (captions_of(y)[:, None] == captions_of(y)[None])).all()
    with pytest.raises(InputError, match="give the model's tokenizer"):
        table_stream(table(folder, rows), **TRANSFORMS)


def test_rows_of_one_file_share_an_image_in_all_splits_and_tasks(folder):
    rows = [{"image": f"img/{i // 2}.png", "caption": f"a star, {i % 3}"} for i in range(12)]
    benchmark = pairs_stream(table(folder, rows), **PAIRS)
    seen = {}
    for stream in (benchmark.train_stream, benchmark.test_stream):
        data = stream[0].dataset
        paths, captions = raw(data).images.paths, raw(data).captions
        rows_of = images_of_rows(torch.tensor(list(data.targets)))
        for path, image, caption, y in zip(paths, rows_of.tolist(), captions, data.targets, strict=True):
            assert seen.setdefault(path.name, image) == image > 0
            assert seen.setdefault(caption, captions_of(torch.tensor(y)).item()) == captions_of(torch.tensor(y)).item()
    assert len(seen) == 6 + 3 and len({seen[f"{i}.png"] for i in range(6)}) == 6


def test_the_split_column_is_followed(folder):
    rows = [{**row, "task": "t", "split": "test" if i < 4 else "train"} for i, row in enumerate(labelled())]
    benchmark = table_stream(table(folder, rows), **TRANSFORMS)
    assert benchmark.protocol["split"] == "column" and benchmark.protocol["n_test"] == [4]
    paths = raw(benchmark.test_stream[0].dataset).images.paths
    assert sorted(p.name for p in paths) == ["0.png", "1.png", "2.png", "3.png"]


def test_reference_pairs(folder):
    rows = [{"image": f"img/{i}.png", "caption": f"number {i}"} for i in range(3)]
    reference = reference_table(table(folder, rows), transform=transform)
    assert len(reference) == 3 and reference.captions[1] == "number 1"
    assert reference.batch([0, 2]).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("image", "img/none.png", r"data\.csv, row 4: there is no image file at .*none\.png"),
        ("image", "", r"data\.csv, row 4: the image is missing"),
        ("caption", " ", r"data\.csv, row 4: the caption is empty"),
        ("split", "later", r"data\.csv, row 4: split is train, val or test, not 'later'"),
    ],
)
def test_bad_rows_are_named_or_skipped(folder, field, value, sentence):
    rows = [{"image": f"img/{i}.png", "caption": f"text {i}", "split": "test" if i > 7 else "train"} for i in range(10)]
    rows[2][field] = value
    path = table(folder, rows)
    with pytest.raises(InputError, match=sentence):
        pairs_stream(path, **PAIRS)
    benchmark = pairs_stream(path, on_error="skip", **PAIRS)
    assert len(benchmark.data.skipped) == 1 and "row 4" in benchmark.data.skipped[0]
    assert benchmark.protocol["n_train"] == [7]


def test_a_truncated_picture_is_named_with_its_row(folder):
    truncate(save(folder / "img" / "3.png", picture(3, 200, 200)))
    with pytest.raises(InputError, match=r"row 5: .*3\.png cannot be decoded"):
        table_stream(table(folder, labelled()), **TRANSFORMS)


def test_malformed_lines(folder):
    path = table(folder, labelled(), "data.jsonl")
    path.write_text(path.read_text() + '\n{"image": oops}\n[1]\n')
    with pytest.raises(InputError, match="row 11: not JSON"):
        table_stream(path, **TRANSFORMS)
    assert len(table_stream(path, on_error="skip", **TRANSFORMS).data.skipped) == 2
    path = table(folder, labelled())
    path.write_text(path.read_text() + "img/1.png,cat\n")
    with pytest.raises(InputError, match="row 12: 2 fields where the header has 3"):
        table_stream(path, **TRANSFORMS)


def test_tables_that_are_no_stream(folder):
    with pytest.raises(InputError, match="there is no table at"):
        table_stream(folder / "none.csv", **TRANSFORMS)
    with pytest.raises(InputError, match=r"must end in \.csv"):
        table_stream(folder / "data.xlsx", **TRANSFORMS)
    with pytest.raises(InputError, match="has no column 'image'; it has file, label"):
        table_stream(table(folder, [{"file": "a", "label": "b"}]), **TRANSFORMS)
    with pytest.raises(InputError, match="has no column 'caption'"):
        pairs_stream(table(folder, labelled()), **PAIRS)
    (folder / "empty.csv").write_text("image,label\n")
    with pytest.raises(InputError, match="has no usable rows"):
        table_stream(folder / "empty.csv", **TRANSFORMS)
    (folder / "latin.csv").write_bytes("image,label\nä,b".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 text \(byte 12\): save it as UTF-8, as `iconv -f ISO-8859-1"):
        table_stream(folder / "latin.csv", **TRANSFORMS)
    rows = [{**row, "split": "train"} for row in labelled()]
    with pytest.raises(InputError, match="task 't0' has no usable test samples"):
        table_stream(table(folder, rows), **TRANSFORMS)


def test_a_byte_order_mark_is_tolerated(folder):
    path = table(folder, labelled())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(table_stream(path, **TRANSFORMS).task_names) == 2


def test_all_captions_of_a_picture_are_on_one_side(folder):
    rows = [{"image": f"img/{i % 5}.png", "caption": f"text {i}"} for i in range(20)]
    benchmark = pairs_stream(table(folder, rows), **PAIRS)
    train, test = (raw(s[0].dataset).images.paths for s in (benchmark.train_stream, benchmark.test_stream))
    assert len(train) + len(test) == 20 and not set(train) & set(test)


def test_a_quote_that_never_closes_does_not_swallow_rows(folder):
    path = table(folder, labelled())
    lines = path.read_text().splitlines()
    lines[3] = 'img/2.png,"cat,t0'
    path.write_text("\n".join(lines))
    for on_error in ("raise", "skip"):
        with pytest.raises(InputError, match="row 4: a quoted field is not closed properly"):
            table_stream(path, on_error=on_error, **TRANSFORMS)
    lines[3] = 'img/2.png,"cat"s,t0'
    path.write_text("\n".join(lines))
    skipped = table_stream(path, on_error="skip", **TRANSFORMS).data.skipped
    assert len(skipped) == 1 and "row 4" in skipped[0]


def test_a_quoted_newline_keeps_line_numbers_right(folder):
    rows = [{"image": f"img/{i}.png", "caption": f"two\nlines {i}"} for i in range(6)]
    rows[2]["image"] = "img/none.png"
    with pytest.raises(InputError, match="row 6: there is no image file"):
        pairs_stream(table(folder, rows), **PAIRS)


def test_fields_of_the_wrong_kind(folder):
    path = folder / "data.jsonl"
    rows = [{"image": f"img/{i}.png", "caption": f"text {i}", "task": "t"} for i in range(6)]
    for field, value, sentence in [
        ("caption", ["a", 2.5, {"b": 1}], "row 1: the caption is empty"),
        ("caption", [["a"]], "row 1: the caption is not text"),
        ("caption", {"a": "b"}, "row 1: the caption is not text"),
        ("caption", "\ud800", "row 1: the caption is not text"),
        ("task", "", "row 1: the task is empty"),
    ]:
        path.write_text("\n".join(json.dumps(row) for row in [{**rows[0], field: value}, *rows[1:]]))
        with pytest.raises(InputError, match=sentence):
            pairs_stream(path, **PAIRS)
    path.write_text('{"image": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match="row 1: not JSON"):
        pairs_stream(path, **PAIRS)


def test_options_that_make_no_sense(folder):
    path = table(folder, labelled())
    with pytest.raises(InputError, match="kind is classes or pairs, not 'class'"):
        table_stream(path, kind="class", **TRANSFORMS)
    with pytest.raises(InputError, match="image_root: there is no folder at"):
        table_stream(path, image_root=folder / "nowhere", **TRANSFORMS)
    path.write_text("image,label,label\nimg/0.png,a,b\n")
    with pytest.raises(InputError, match="more than one column called 'label'"):
        table_stream(path, **TRANSFORMS)


def test_what_reference_pairs_leave_out_is_said(folder):
    rows = [{"image": f"img/{i}.png", "caption": f"number {i}"} for i in range(3)] + [
        {"image": "x.png", "caption": "x"}
    ]
    reference = reference_table(table(folder, rows), transform=transform, on_error="skip")
    assert len(reference) == 3 and len(reference.skipped) == 1 and "row 5" in reference.skipped[0]


captions = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1), max_size=5
)


@given(captions)
@settings(max_examples=60, deadline=None)
def test_any_caption_survives_both_formats(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tables")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["image", "caption"], *([f"{i}.png", t] for i, t in enumerate(texts))])
    (folder / "a.csv").write_bytes(text.getvalue().encode())
    lines = [json.dumps({"image": f"{i}.png", "caption": t}, ensure_ascii=False) for i, t in enumerate(texts)]
    (folder / "a.jsonl").write_bytes("\n".join(lines).encode())
    for name in ("a.csv", "a.jsonl"):
        rows = list(read_rows(folder / name, Problems("raise")))
        assert [fields["caption"] for _, fields in rows] == texts


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_a_split_has_both_sides_and_loses_nothing(n, fraction, seed):
    train, test = split_indices(n, fraction, np.random.default_rng(seed))
    assert train and test and sorted(train + test) == list(range(n))
    assert (train, test) == split_indices(n, fraction, np.random.default_rng(seed))


@pytest.mark.parametrize("check", ["full", "fast", "none"])
def test_a_path_with_half_a_character_is_no_path_of_its_row(folder, check):
    rows = [{"image": f"img/{i}.png", "label": "ab"[i % 2]} for i in range(8)] + [{"image": "\ud800.png", "label": "a"}]
    (path := folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(InputError, match=r"data\.jsonl.*9.*no (path|image file)"):
        table_stream(path, **TRANSFORMS, check=check)
