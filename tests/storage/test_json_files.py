"""JSON files that are read again: nothing but JSON, and nothing but what their type says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typing_extensions import TypedDict

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import json_files
from avalanche_vlm.storage.json_files import EXACT, Document, Name, Percent, TruncatedError, parse_json, read_json_file

PATH = Path("kept.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a": NaN}', "it has a NaN, which JSON does not know"),
        (b'{"a": -Infinity}', "it has a -Infinity, which JSON does not know"),
        (b'{"a": 1e400}', "it has the number 1e400, which is too large"),
        (b'{"a": 18446744073709551616}', "it has the number 18446744073709551616, which is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "which is too large"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has 'c' twice"),
        (b'{"a": "\xff"}', r"it is not UTF-8 \(byte 7\)"),
        (b'{"a": 1,}', r"it is not JSON \(line 1: "),
        (b"[" * 101 + b"]" * 101, "it is nested more than 100 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "it is nested more than 100 deep"),
        (b"", "it ends early, or is not JSON"),
        (b'{"a": 1', "it ends early, or is not JSON"),
    ],
)
def test_what_is_no_json_is_told_in_a_sentence(text, why):
    with pytest.raises(InputError, match=rf"kept\.json is damaged: .*{why}|kept\.json is damaged: {why}") as told:
        parse_json(text, PATH)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300
    assert isinstance(told.value, TruncatedError) == ("early" in why)


def test_what_is_json_is_read_as_it_is():
    for value in (18446744073709551615, -1, 0.1, [[]], {"\udce9": None}, [0.0] * 3):
        assert parse_json(json.dumps(value).encode(), PATH) == value
    assert len(json.dumps(parse_json(b"[" * 100 + b"]" * 100, PATH))) == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_and_a_device_are_no_files(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="is no regular file, but a "):
            read_json_file(path)
    with pytest.raises(InputError, match=r"cannot read .*none: No such file"):
        read_json_file(tmp_path / "none")
    monkeypatch.setattr(json_files, "RECORD_BYTES", 50)
    (tmp_path / "long").write_bytes(b"[" + b" " * 100 + b"]")
    with pytest.raises(InputError, match="long has 102 B or more, and such a file is read up to 50 B"):
        read_json_file(tmp_path / "long")


class Scores(TypedDict):
    __pydantic_config__ = EXACT

    name: Name
    rows: list[list[Percent | None]]


KIND: Document[Scores] = Document("a test", Scores)


def test_a_document_comes_back_as_it_was_and_others_are_refused(tmp_path):
    path, content = tmp_path / "a.json", {"name": "\udce9", "rows": [[0.1, None], [100.0, 1e-300]]}
    KIND.write(path, content)
    assert KIND.read(path) == content
    told = json.loads(path.read_text())
    assert (told["format"], list(told)) == (1, ["format", "name", "rows", "sha256"])

    def refusal(changed: dict, seal: bool = True) -> str:
        rest = {key: value for key, value in {**told, **changed}.items() if value != "gone" and key != "sha256"}
        path.write_bytes(KIND.encoded(rest) if seal else json.dumps({**rest, "sha256": told["sha256"]}).encode())
        with pytest.raises(InputError) as error:
            KIND.read(path)
        return str(error.value).removeprefix(f"{path} ")

    assert refusal({"rows": [[1.0]]}, seal=False).startswith("is truncated or was changed since it was written")
    assert refusal({"format": "gone"}, seal=False).startswith("is not a test as this version writes it: it does not")
    assert refusal({"format": 2}) == "has format 2; this version reads format 1 of a test"
    assert refusal({"format": True}) == "has format True; this version reads format 1 of a test"
    assert refusal({"rows": "gone"}) == "is damaged: it has no rows"
    assert refusal({"more": 1}) == "is damaged: it has more, which does not belong there"
    assert refusal({"name": 3}) == "is damaged: name: input should be a valid string"
    assert refusal({"rows": [[1.0], ["2"]]}) == "is damaged: rows.1.0: input should be a valid number"
    assert refusal({"rows": [[100.1]]}) == "is damaged: rows.0.0: input should be less than or equal to 100"
    path.write_text("[]")
    with pytest.raises(InputError, match="it is not a JSON object"):
        KIND.read(path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "n" * (1 << 20)}, "it would have 1.0 MiB, and such a file is read up to 100.0 KiB"),
        ({"name": "n" * ((1 << 16) + 1)}, "name: string should have at most 65536 characters"),
        ({"name": 3}, "name: input should be a valid string"),
        ({"rows": [[100.5]]}, "rows.0.0: input should be less than or equal to 100"),
        ({"rows": [[1 << 64]]}, "it has the number 18446744073709551616, which is too large"),
        ({"more": 1}, "it has more, which does not belong there"),
    ],
)
def test_what_could_not_be_read_again_is_not_written_and_the_old_file_stays(tmp_path, monkeypatch, changed, why):
    monkeypatch.setattr(json_files, "RECORD_BYTES", 100 * 2**10)
    path, content = tmp_path / "a.json", {"name": "a", "rows": [[1.0]]}
    KIND.write(path, content)
    with pytest.raises(InputError) as told:
        KIND.write(path, {**content, **changed})
    assert str(told.value).startswith(f"cannot write {path}") and str(told.value).endswith(why)
    assert KIND.read(path) == content
