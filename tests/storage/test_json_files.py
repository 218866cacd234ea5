"""JSON files that are read again are nothing but JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import json_files
from avalanche_vlm.storage.json_files import TruncatedError, parse_json, read_json_file

PATH = Path("kept.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a": NaN}', "it has a NaN, which JSON does not know"),
        (b'{"a": -Infinity}', "it has a -Infinity, which JSON does not know"),
        (b'{"a": 1e400}', "it has the number 1e400, which is too large"),
        (b'{"a": [{"b": [0.5, -1e999, 1e400]}]}', "it has the number -1e999, which is too large"),
        (b"1e400", "it has the number 1e400, which is too large"),
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
