"""What image files hold is read once, and again when they have changed."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from real_files import picture, save, transform

from avalanche_vlm import _content
from avalanche_vlm._content import file_digest
from avalanche_vlm.benchmarks import image_folder_stream
from avalanche_vlm.benchmarks.fingerprint import data_of
from avalanche_vlm.benchmarks.sources import contents
from avalanche_vlm.benchmarks.sources.checking import unreadable_files
from avalanche_vlm.benchmarks.sources.contents import (
    as_digits,
    as_number,
    content_at_path,
    contents_kept,
    contents_of,
)
from avalanche_vlm.benchmarks.sources.manifest import (
    known_of,
    look_at,
    manifest_of,
    read_known,
)
from avalanche_vlm.errors import InputError


def earlier(path):
    os.utime(path, ns=(time.time_ns() - 10**11,) * 2)
    return path


@pytest.fixture
def read(monkeypatch):
    """The files that are read for what they hold; nothing is known at first."""
    seen, real = [], contents.digest_of

    def reading(path):
        seen.append(path)
        return real(path)

    monkeypatch.setattr(contents, "digest_of", reading)
    monkeypatch.setattr(contents, "_FOUND", {})
    return seen


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path / "cache"))
    return [earlier(save(tmp_path / "data" / f"c{i % 2}" / f"{i}.png", picture(i, 12, 12))) for i in range(8)]


def another_start(monkeypatch):
    monkeypatch.setattr(contents, "_FOUND", {})
    _content._of_file.cache_clear()


def stream(files):
    shown = {"train_transform": transform, "eval_transform": transform}
    return image_folder_stream(files[0].parent.parent, check_workers=0, **shown)


def test_a_check_of_whole_files_knows_what_they_hold(files, read, monkeypatch):
    wanted = [file_digest(path) for path in files]
    first = data_of(stream(files))
    assert not read
    another_start(monkeypatch)
    assert data_of(stream(files)) == first and not read
    assert [content_at_path(path) for path in files] == wanted and not read
    _, digests = known_of(lambda: read_known(manifest_of(files[0].parent.parent)), look_at(files))
    assert as_digits(digests) == "".join(wanted)


def test_what_a_look_at_headers_does_not_tell_is_read_once_and_kept(files, read, monkeypatch):
    shown = {"train_transform": transform, "eval_transform": transform, "check": "fast", "check_workers": 0}
    found = []
    for _ in range(2):
        another_start(monkeypatch)
        found.append(data_of(image_folder_stream(files[0].parent.parent, **shown))["content"])
        assert sorted(read) == sorted(files)
    another_start(monkeypatch)
    assert data_of(stream(files))["content"] == found[0] == found[1]


def test_a_file_that_changes_is_read_again_whatever_its_size_and_time_say(files, read):
    unreadable_files(files, files[0].parent.parent, workers=0)
    before, known = content_at_path(files[3]), files[3].stat()
    content = bytearray(files[3].read_bytes())
    content[-20] ^= 1
    files[3].write_bytes(content)
    os.utime(files[3], ns=(known.st_atime_ns, known.st_mtime_ns))
    assert content_at_path(files[3]) == file_digest(files[3]) != before and read == [files[3]]
    assert as_digits(contents_of(files, look_at(files))[3:4]) == content_at_path(files[3])


def test_a_file_that_is_written_anew_within_a_process_is_kept_as_it_is(files, read):
    root = files[0].parent.parent
    unreadable_files(files, root, workers=0)
    known, content = files[3].stat(), bytearray(files[3].read_bytes())
    content[-20] ^= 1
    files[3].write_bytes(save(files[3].with_suffix(".bmp"), picture(3, 12, 12)).read_bytes())
    unreadable_files(files, root, workers=0)
    files[3].write_bytes(content)
    os.utime(files[3], ns=(known.st_atime_ns, known.st_mtime_ns))
    unreadable_files(files, root, workers=0)
    _, digests = known_of(lambda: read_known(manifest_of(root)), look_at(files))
    _content._of_file.cache_clear()
    assert as_digits(digests[3:4]) == file_digest(files[3]) or not digests[3]


def levels_and_digests(files):
    levels, digests = known_of(lambda: read_known(manifest_of(files[0].parent.parent)), look_at(files))
    return levels.tolist(), (digests != 0).tolist()


def test_who_knows_less_takes_nothing_from_what_others_found(files, read, monkeypatch):
    """One process looks, another one checks, and the first one writes down what it has read."""
    root = files[0].parent.parent
    unreadable_files(files, root, check="none")
    first = dict(contents._FOUND)
    another_start(monkeypatch)
    unreadable_files(files[:6], root, workers=0)
    monkeypatch.setattr(contents, "_FOUND", first)
    with contents_kept():
        content_at_path(files[7])
    assert levels_and_digests(files) == ([2] * 6 + [0] * 2, [True] * 6 + [False, True])
    earlier(save(files[2], picture(77, 12, 13)))
    another_start(monkeypatch)
    unreadable_files(files[:6], root, check="fast")
    monkeypatch.setattr(contents, "_FOUND", first)
    with contents_kept():  # of a file that has changed since it looked
        content_at_path(files[6])
    assert levels_and_digests(files)[0] == [2, 2, 1, 2, 2, 2, 0, 0]


def test_a_few_files_leave_the_others_known(files, read, monkeypatch):
    root = files[0].parent.parent
    unreadable_files(files, root, workers=0)
    another_start(monkeypatch)
    with contents_kept():
        unreadable_files([files[0]], root, check="none")
        content_at_path(files[0])
    assert levels_and_digests(files) == ([2] * 8, [True] * 8)


def test_what_was_read_is_not_lost_when_the_data_are_opened_again(files, read, monkeypatch):
    root = files[0].parent.parent
    for _ in range(2):
        unreadable_files(files, root, check="none")
        content_at_path(files[1])
    unreadable_files(files, root, check="none")
    assert read == [files[1]]
    with pytest.raises(KeyboardInterrupt), contents_kept():
        raise KeyboardInterrupt
    assert levels_and_digests(files)[1] == [False, True, *[False] * 6]
    content_at_path(files[2])
    for number in range(contents._MOST):  # which pushes it out
        unreadable_files(files[:1], files[0].parent / str(number), check="none")
    assert levels_and_digests(files)[1] == [False, True, True, *[False] * 5]


def test_a_file_that_is_no_more_is_not_what_it_was(files, read, monkeypatch):
    os.utime(files[0], ns=(1, 15 * 10**18))
    unreadable_files(files, files[0].parent.parent, workers=0)
    files[0].unlink()
    _content._of_file.cache_clear()
    with pytest.raises(InputError, match="cannot read"):
        content_at_path(files[0])


def test_a_folder_that_one_stands_in_has_the_same_manifest(files, read, monkeypatch):
    data_of(stream(files))
    monkeypatch.chdir(files[0].parent.parent)
    another_start(monkeypatch)
    shown = {"train_transform": transform, "eval_transform": transform, "check": "none"}
    data_of(image_folder_stream(".", **shown))
    assert not read


def test_data_sets_that_share_files_and_files_of_none_are_known(files, read, tmp_path):
    for place in (tmp_path / "one", tmp_path / "two"):
        unreadable_files(files[:5], place, check="none")
    content_at_path(files[0])
    content_at_path(files[0])
    content_at_path(files[7])
    assert read == [files[0], files[7]]
    with pytest.raises(InputError, match=r"cannot read .*none\.png"):
        content_at_path(tmp_path / "none.png")


def test_a_data_set_without_a_file_knows_none(files, read, tmp_path):
    unreadable_files([], tmp_path / "empty", check="none")
    assert contents_of(files, look_at(files)).tolist() == [as_number(file_digest(path)) for path in files]
    assert contents_of(files, look_at(files), np.array([3, 1])).tolist() == [
        as_number(file_digest(path)) for path in (files[3], files[1])
    ]
    assert contents_of([], look_at([])).tolist() == []


def test_a_long_life_forgets_what_it_saw_first(files, read, tmp_path):
    for number in range(contents._MOST + 3):
        unreadable_files(files[:1], tmp_path / str(number), check="none")
    assert len(contents._FOUND) == contents._MOST


def test_digests_are_numbers_and_back():
    for digits in ("0000000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"):
        assert as_digits(np.array([as_number(digits)])) == digits
