"""Documents come back as they were, and say nothing but what their type says."""

from __future__ import annotations

import json

import pytest
from typing_extensions import TypedDict

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import json_files
from avalanche_vlm.storage.documents import EXACT, Document, Name, Percent


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
