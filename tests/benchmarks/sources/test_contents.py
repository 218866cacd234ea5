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
from avalanche_vlm.benchmarks.sources.checking import checked_images
from avalanche_vlm.benchmarks.sources.contents import as_digits, as_number, content_at_path, contents_of
from avalanche_vlm.benchmarks.sources.manifest import known_digests, look_at, manifest_of, read_known
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
        _content._of_file.cache_clear()
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
    digests = known_digests(read_known(manifest_of(files[0].parent.parent)), look_at(files))
    assert [as_digits(of) for of in digests.tolist()] == wanted


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
    list(checked_images(files, files[0].parent.parent, workers=0))
    before, known = content_at_path(files[3]), files[3].stat()
    content = bytearray(files[3].read_bytes())
    content[-20] ^= 1
    files[3].write_bytes(content)
    os.utime(files[3], ns=(known.st_atime_ns, known.st_mtime_ns))
    assert content_at_path(files[3]) == file_digest(files[3]) != before and read == [files[3]]
    assert as_digits(int(contents_of(files, look_at(files))[3])) == content_at_path(files[3])


def test_data_sets_that_share_files_and_files_of_none_are_known(files, read, tmp_path):
    for place in (tmp_path / "one", tmp_path / "two"):
        list(checked_images(files[:5], place, check="none"))
    content_at_path(files[0])
    content_at_path(files[0])
    content_at_path(files[7])
    assert read == [files[0], files[7]]
    with pytest.raises(InputError, match=r"cannot read .*none\.png"):
        content_at_path(tmp_path / "none.png")


def test_a_long_life_forgets_what_it_saw_first(files, read, tmp_path):
    for number in range(contents._MOST + 3):
        list(checked_images(files[:1], tmp_path / str(number), check="none"))
    assert len(contents._FOUND) == contents._MOST


def test_digests_are_numbers_and_back():
    for digits in ("0000000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"):
        assert as_digits(as_number(digits)) == digits and np.int64(as_number(digits)) == as_number(digits)
