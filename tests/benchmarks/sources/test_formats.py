"""On-disk formats: told by suffix or marker, added from outside in one place."""

from __future__ import annotations

import pytest
from made import tiny as tiny_vlm
from real_files import picture, save, transform

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks.sources import registry
from avalanche_vlm.benchmarks.sources.registry import Format, format_of, read_reference, read_stream, register_format
from avalanche_vlm.errors import InputError


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(registry.FORMATS, "_registered", dict(registry.FORMATS._known))


def test_shipped_formats_are_told_by_suffix_and_folder(tmp_path):
    assert [format_of(tmp_path / f"x{end}").name for end in (".csv", ".TSV", ".jsonl")] == ["csv", "tsv", "jsonl"]
    assert format_of(tmp_path).name == "class-folder"
    with pytest.raises(InputError, match=r"x\.xls is no table .*: its name must end in \.csv, .*, \.parquet or \.tar"):
        format_of(tmp_path / "x.xls")


def pipes(path, problems):
    """Rows whose fields are separated by ``|``: image, label, task."""
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        fields = text.split("|")
        if len(fields) == 3:
            yield line, dict(zip(("image", "label", "task"), fields, strict=True))
        else:
            problems.add(f"{path}, row {line}: three fields are needed")


def test_a_table_from_outside_is_one_function_and_one_registration(tmp_path, fresh):
    register_format(Format("pipes", "fields separated by |", (".pipes",), pipes))
    for i in range(12):
        save(tmp_path / f"{i}.png", picture(i))
    rows = [f"{i}.png|thing {i % 2}|task {i // 6}" for i in range(12)]
    table = tmp_path / "mine.pipes"
    table.write_text("\n".join([*rows, "lost"]))
    with pytest.raises(InputError, match="row 13: three fields are needed"):
        read_stream(table, model=tiny_vlm())
    stream = read_stream(table, model=tiny_vlm(), on_error="skip", order=["task 1", "task 0"])
    assert stream.task_names == ("task 1", "task 0") and len(stream.data.skipped) == 1
    assert stream.label_space.class_names == ("thing 0", "thing 1") * 2
    with pytest.raises(InputError, match=r"a pipes, has no option 'colour'"):
        read_stream(table, colour="red")
    with pytest.raises(InputError, match="has no column 'caption'"):
        read_reference(table, model=tiny_vlm(), on_error="skip")
    with pytest.raises(InputError, match=r"files \.pipes are read as 'pipes' already"):
        register_format(Format("pipes too", "the same", (".pipes",), pipes))
    with pytest.raises(InputError, match="a format called 'pipes' is registered already"):
        register_format(Format("pipes", "the same", (), pipes))


def test_a_folder_from_outside_is_told_by_its_marker(tmp_path, fresh):
    def opened(path, *, seed=0):
        return (path, seed)

    register_format(Format("shards", "a folder with an index", stream=opened, marker="index.json"))
    assert format_of(tmp_path).name == "class-folder"
    (tmp_path / "index.json").write_text("{}")
    assert read_stream(tmp_path, model=tiny_vlm(), seed=3) == (tmp_path, 3)
    with pytest.raises(InputError, match="is no table: it holds a shards"):
        benchmarks.reference_table(tmp_path, transform=transform)


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(InputError, match="there is no file or folder at /no/such"):
        read_stream("/no/such")
