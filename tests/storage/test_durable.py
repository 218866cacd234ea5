"""Files and folders that appear whole."""

from __future__ import annotations

import os
import stat

import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import staged, written
from avalanche_vlm.storage.durable import check_length, replace_file, sweep


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a"
    with written(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    path.chmod(0o640)
    with pytest.raises(RuntimeError), written(path) as file:
        file.write(b"half")
        raise RuntimeError
    with written(path) as file:
        file.write(b"newer")
        assert path.read_bytes() == b"new"
    assert path.read_bytes() == b"newer" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_written_is_named_and_stays(tmp_path, monkeypatch):
    replace_file(tmp_path / "made" / "a.json", b"old")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/a\.json: Not a directory"):
        replace_file(tmp_path / "file" / "a.json", b"new")
    order = []
    rename, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("renamed"), rename(*names)))
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("synchronized"), sync(handle)))
    replace_file(tmp_path / "made" / "a.json", b"new")
    assert order == ["synchronized", "renamed", "synchronized"]  # content, name, folder
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"cannot write .*a\.json: No space left on device"):
        replace_file(tmp_path / "made" / "a.json", b"newer")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "made").iterdir()] == [("a.json", b"new")]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "above" / "v1"
    with staged(folder) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "a").write_text("a")
        (unfinished / "link").symlink_to("deep")
        assert not folder.exists() and unfinished.parent == folder.parent
    assert (folder / "link" / "a").read_text() == "a" and os.listdir(folder.parent) == ["v1"]


def test_an_error_of_something_else_is_not_taken_for_one_of_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), staged(tmp_path / "new" / "v1"):
        (tmp_path / "elsewhere").read_text()
    with (
        pytest.raises(InputError, match=r"cannot write the folder .*v1: No such file"),
        staged(tmp_path / "v1") as folder,
    ):
        (folder / "not made" / "a").write_text("a")
    assert os.listdir(tmp_path) == ["new"]


def test_nothing_is_left_of_a_folder_that_failed_or_was_killed(tmp_path):
    folder = tmp_path / "v1"
    with pytest.raises(KeyboardInterrupt), staged(folder) as unfinished:
        (unfinished / "a").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    (tmp_path / ".v1.0123456789abcdef.part").mkdir()
    (tmp_path / ".v1.0123456789abcdef.part" / "a").touch()
    (tmp_path / ".v1.0.0123456789abcdef.part").mkdir()  # another folder's
    with staged(folder):
        pass
    assert sorted(os.listdir(tmp_path)) == [".v1.0.0123456789abcdef.part", "v1"]


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    folder = tmp_path / "v1"
    folder.mkdir()
    with staged(folder):  # an empty one is none
        pass
    (folder / "a").write_text("before")
    for taken in (folder, folder / "a"):
        with pytest.raises(InputError, match=f"{taken} is there already: nothing was written to it"), staged(taken):
            pass
    with pytest.raises(InputError, match=r"v2 is there already"), staged(tmp_path / "v2") as unfinished:
        (unfinished / "a").touch()
        (tmp_path / "v2").mkdir()
        (tmp_path / "v2" / "theirs").touch()
    assert sorted(os.listdir(tmp_path)) == ["v1", "v2"] and (folder / "a").read_text() == "before"
    with (
        pytest.raises(InputError, match=r"cannot make the folder .*a/v3: Not a directory"),
        staged(folder / "a" / "v3"),
    ):
        pass


def test_what_killed_writers_left_is_swept(tmp_path):
    for name in (".a.json.0123456789abcdef.part", ".b.part", ".hidden", "a.part", "a.json"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".b.part", ".hidden", "a.json", "a.part"]


def test_a_name_that_the_disk_takes_is_written_however_long(tmp_path):
    names = ["a" * 255, "a" * 254 + "b", "ä" * 127]
    for name in names:
        replace_file(tmp_path / name, name.encode())
        with staged(tmp_path / f"of {len(os.fsencode(name))}" / name) as folder:
            assert folder.name.endswith(".part")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(names)
    with pytest.raises(KeyboardInterrupt), written(tmp_path / names[0]):
        leftover = next(tmp_path.glob(".*.part"))
        content = leftover.read_bytes()
        raise KeyboardInterrupt
    leftover.write_bytes(content)  # as a killed process leaves it
    sweep(tmp_path, names[1])
    assert leftover.exists()
    sweep(tmp_path, names[0])
    assert not leftover.exists()


def test_a_name_with_half_a_character_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match="half of a character is no text"):
        check_length(tmp_path / "\ud800" / "x")
