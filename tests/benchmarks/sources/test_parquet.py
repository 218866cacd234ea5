"""Parquet tables as data hubs write them, read in any order, and what is no such table."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from real_files import picture, raw, transform

from avalanche_vlm import cli
from avalanche_vlm.benchmarks.sources.inside import content_inside, size_at
from avalanche_vlm.benchmarks.sources.registry import read_stream
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.tiny import build_tokenizer

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow.parquet") and pytest.importorskip("pyarrow")
TRANSFORMS = {"train_transform": transform, "eval_transform": transform}
NAMES = ["tabby cat", "dog", "cow"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path / "cache"))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number, 20, 30).save(file, "PNG")
    return file.getvalue()


def write(path, numbers, *, image="image", **columns) -> None:
    features = datasets.Features(
        {
            image: datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            **{name: datasets.Value("string") for name in columns},
        }
    )
    cells = [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]
    table = {image: cells, "label": [number % 3 for number in numbers], **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(path), batch_size=5)


def test_classes_have_the_table_s_names_and_images_its_bytes(tmp_path):
    path = tmp_path / "set.parquet"
    write(path, range(12), split=["train"] * 9 + ["test"] * 3)
    found = read_stream(path, **TRANSFORMS)
    assert sorted(found.label_space.class_names) == sorted(NAMES)
    assert found.protocol["n_train"] == [9] and found.protocol["n_test"] == [3]
    for stream, numbers in ((found.train_stream, range(9)), (found.test_stream, range(9, 12))):
        data = raw(stream[0].dataset)
        for place, number in enumerate(numbers):
            assert np.array_equal(np.asarray(data.images[place]), np.asarray(picture(number, 20, 30)))
            assert content_inside(data.images.paths[place]) == png(number)
            assert size_at(data.images.paths[place]) == len(png(number))
    assert len(set(data.images.contents_of(range(3)))) == 3


def test_a_folder_of_tables_has_the_parts_that_their_names_begin_with(tmp_path):
    for name, numbers in (
        ("train-00000-of-00002", range(6)),
        ("train-00001-of-00002", range(6, 9)),
        ("test-00000-of-00001", range(9, 12)),
    ):
        write(tmp_path / "hub" / "data" / f"{name}.parquet", numbers, image="img")
    found = read_stream(tmp_path / "hub", image_column="img", **TRANSFORMS)
    assert found.protocol["n_train"] == [9] and found.protocol["n_test"] == [3]
    shown = [np.asarray(raw(found.train_stream[0].dataset).images[place]) for place in range(9)]
    assert all(np.array_equal(one, np.asarray(picture(number, 20, 30))) for number, one in enumerate(shown))


def test_a_table_that_has_changed_is_read_again(tmp_path):
    path = tmp_path / "set.parquet"
    write(path, range(3))
    before = content_inside(path / "image" / "0")
    write(path, range(3, 9))
    assert content_inside(path / "image" / "0") != before == png(0)
    assert content_inside(path / "image" / "5") == png(8)


def test_several_captions_of_a_picture_are_a_list(tmp_path):
    path = tmp_path / "pairs.parquet"
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    cells = [{"bytes": png(number), "path": None} for number in range(10)]
    captions = [[f"picture {number}", f"number {number}"] for number in range(10)]
    datasets.Dataset.from_dict({"image": cells, "caption": captions}, features=features).to_parquet(str(path))
    found = read_stream(path, tokenizer=build_tokenizer(), **TRANSFORMS)
    assert found.kind == "pairs" and sum(found.protocol["n_train"]) + sum(found.protocol["n_test"]) in (10, 20)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no Parquet file, or not all of one"),
        (b"PAR1" + b"\0" * 64, "is no Parquet file, or not all of one"),
        (b"PAR1" + b"\xff" * 64 + b"PAR1", "bad.parquet cannot be read: "),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_stream(path, **TRANSFORMS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cell", ["image/3", "image/-1", "image", "label/0", "other/0", "image/0/0", "image/" + "9" * 30]
)
def test_a_path_to_no_cell_is_one_sentence(tmp_path, cell):
    path = tmp_path / "set.parquet"
    write(path, range(3))
    with pytest.raises(InputError, match=r"set\.parquet has no image in row|leads to no cell of"):
        content_inside(path / cell)


def test_a_cell_without_bytes_and_a_picture_that_is_none_are_named_and_skipped(tmp_path):
    path = tmp_path / "set.parquet"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    cells = [{"bytes": png(number), "path": None} for number in range(8)]
    cells[2], cells[5] = None, {"bytes": b"no picture", "path": "../../secret.png"}
    labels = ["cat", "dog"] * 4
    datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(str(path))
    with pytest.raises(InputError, match=r"row 3.* has no bytes"):
        read_stream(path, **TRANSFORMS)
    found = read_stream(path, on_error="skip", **TRANSFORMS)
    assert sum(found.protocol["n_train"]) + sum(found.protocol["n_test"]) == 6
    assert len(found.data.skipped) == 2


def test_without_the_library_one_sentence_names_the_extra(tmp_path, monkeypatch):
    import sys

    path = tmp_path / "set.parquet"
    write(path, range(3))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'avalanche-vlm\[parquet\]'"):
        read_stream(path, **TRANSFORMS)


@pytest.mark.slow
def test_a_run_from_the_command_line_with_workers(tmp_path):
    write(tmp_path / "hub/train-0.parquet", range(12))
    write(tmp_path / "hub/test-0.parquet", range(12, 18))
    words = ["--recipe", "fine-tune", "--epochs", "1", "--batch-size", "4", "--quiet", "--workers", "2"]
    assert cli.main(["run", "--data", str(tmp_path / "hub"), *words, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/result.json").read_text())["protocol"]["data"]["n_test"] == [6]


def test_columns_of_sounds_and_lists_of_pictures_are_not_decoded(tmp_path):
    path = tmp_path / "set.parquet"
    cell = {"bytes": png(1), "path": "x.png"}
    rows = {"image": [cell] * 4, "label": ["a", "b"] * 2, "sound": [cell] * 4, "more": [[cell]] * 4}
    kinds = {"image": {"_type": "Image"}, "label": {"dtype": "string", "_type": "Value"}, "sound": {"_type": "Audio"}}
    kinds["more"] = {"feature": {"_type": "Image"}, "_type": "List"}
    said = {"huggingface": json.dumps({"info": {"features": kinds}})}
    pyarrow.parquet.write_table(pyarrow.table(rows).replace_schema_metadata(said), path)
    found = read_stream(path, **TRANSFORMS)
    assert sum(found.protocol["n_train"]) + sum(found.protocol["n_test"]) == 4


def test_rows_without_a_class_are_named(tmp_path):
    path = tmp_path / "test.parquet"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    cells = [{"bytes": png(number), "path": None} for number in range(6)]
    datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0, 1, 0, -1]}, features=features).to_parquet(str(path))
    with pytest.raises(InputError, match="row 6"):
        read_stream(path, **TRANSFORMS)


def written(path, **columns) -> None:
    """A table of plain columns, without a word on what they are."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_a_value_that_python_has_none_for_is_one_sentence(tmp_path, capfd):
    """Fuzzing found it: dates go to the year 9999 in Python, and beyond in a table."""
    path = tmp_path / "set.parquet"
    days = pyarrow.array([2**40] * 3, pyarrow.timestamp("s"))
    written(path, image=["a.png"] * 3, label=["cat"] * 3, at=days)
    with pytest.raises(InputError, match=r"set\.parquet has a value in rows 1 to 3 that "):
        read_stream(path, **TRANSFORMS)
    assert capfd.readouterr() == ("", "")


def test_a_table_that_cannot_be_read_is_said_once(tmp_path, capfd):
    path = tmp_path / "set.parquet"
    write(path, range(3))
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes(len(content) - 60) + content[-40:])
    with pytest.raises(InputError, match=r"cannot be read|is no Parquet file"):
        read_stream(path, **TRANSFORMS)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("cells", [[[b"a"]] * 6, [{"a": 1}] * 6])
def test_an_image_that_is_neither_bytes_nor_a_path_is_named(tmp_path, cells):
    path = tmp_path / "set.parquet"
    written(path, image=cells, label=["cat", "dog"] * 3)
    with pytest.raises(InputError, match=r"row 1: the image is no path"):
        read_stream(path, **TRANSFORMS)


def test_a_table_without_rows_is_one_sentence(tmp_path):
    path = tmp_path / "set.parquet"
    written(path, image=pyarrow.array([], pyarrow.string()), label=pyarrow.array([], pyarrow.string()))
    with pytest.raises(InputError, match=r"set\.parquet has no rows"):
        read_stream(path, **TRANSFORMS)
