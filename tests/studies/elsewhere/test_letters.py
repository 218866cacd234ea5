"""What elements say through files, where a disk is full or a file is damaged."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from avalanche_vlm.studies.elsewhere.letters import Letters, read_asked, write_asked, write_letter
from avalanche_vlm.studies.workers import Answer


def heard(letters: Letters) -> list[Any]:
    found: list[Any] = []
    letters.deliver(3, lambda index, told: found.append((index, told)))
    return found


def said(what: Any) -> Answer:
    return Answer(told=(what,))


@pytest.fixture
def letters(tmp_path: Path) -> Letters:
    folder = tmp_path / "3"
    assert heard(Letters(folder)) == [] and not Letters(folder).begun
    folder.mkdir()
    return Letters(folder)


def test_what_a_full_disk_has_cut_off_is_left_out_and_what_comes_later_is_read(letters):
    letter, large = letters.folder / "1", "x" * 700_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        write_letter(letter, [said("a"), said(large), said(large), said("never")])
        assert heard(letters) == [(3, "a"), (3, large)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write_letter(letter, [said("b")])
    assert heard(letters) == [(3, "b")]


@pytest.mark.parametrize("content", [b"\0" * 7 + b"\5odd..", b"\xff" * 40, b"\0\0"])
def test_a_damaged_file_ends_no_other(letters, content):
    (letters.folder / "1").write_bytes(content)
    for what in ("a", "b"):
        write_letter(letters.folder / "2", [said(what)])
        assert heard(letters) == [(3, what)]


def test_what_is_asked_of_elements(tmp_path):
    assert read_asked(tmp_path) == (0, None)
    assert write_asked(tmp_path, 2, 15) and read_asked(tmp_path) == (2, 15)
    (tmp_path / "file").touch()
    assert not write_asked(tmp_path / "file", 2, None)  # as where a disk is full
