"""Images are checked once, in parallel, in order; a manifest of anyone's is never believed against the files."""

from __future__ import annotations

import os
import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.sources import checking, manifest
from avalanche_vlm.benchmarks.sources.checking import unreadable_files
from avalanche_vlm.benchmarks.sources.manifest import HEADER, known_of, look_at, manifest_of, read_known
from avalanche_vlm.benchmarks.sources.telling import checks_told
from avalanche_vlm.errors import DataWarning, InputError


def earlier(path):
    """A file as it would be had it been there for a while."""
    os.utime(path, ns=(time.time_ns() - 10**11,) * 2)
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path / "cache"))
    (data := tmp_path / "data").mkdir()
    return [earlier(save(data / f"{i}.png", picture(i, 12, 12))) for i in range(8)]


@pytest.fixture
def read(monkeypatch):
    """The paths of the images that are decoded."""
    seen = []
    plain = checking.read_image
    monkeypatch.setitem(checking._READ, "full", lambda path: seen.append(path) or plain(path))
    return seen


def verdicts(files, **options):
    wrong = unreadable_files(files, files[0].parent, **{"workers": 0} | options)
    assert [path for path in files if path in wrong] == list(wrong)
    return [wrong.get(path) for path in files]


def test_a_file_is_read_once_and_again_when_it_has_changed(files, read):
    assert verdicts(files) == [None] * 8 and read == files
    read.clear()
    assert verdicts(files) == [None] * 8 and not read
    for change in (
        lambda path: earlier(save(path, picture(9, 12, 13))),  # another size and another time
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: (path.unlink(), earlier(save(path, picture(9, 12, 13)))),
    ):
        change(files[3])
        assert verdicts(files) == [None] * 8 and read == [files[3]]
        read.clear()
    known = files[2].stat()
    content = bytearray(files[2].read_bytes())
    content[60:80] = bytes(20)
    files[2].write_bytes(content)
    os.utime(files[2], ns=(known.st_atime_ns, known.st_mtime_ns))  # of equal size, its time put back
    assert str(files[2]) in verdicts(files)[2]


def test_a_file_that_cannot_be_read_is_read_again(files, read):
    earlier(truncate(save(files[5], picture(1, 300, 300))))
    for _ in range(2):
        found = verdicts(files)
        assert [row for row, sentence in enumerate(found) if sentence] == [5] and str(files[5]) in found[5]
    assert read == [*files, files[5]]


def test_what_was_written_a_moment_ago_is_checked_again(files, read):
    save(files[0], picture(3, 12, 12))
    verdicts(files)
    read.clear()
    verdicts(files)
    assert read == [files[0]]


def test_processes_find_what_one_finds_in_its_order(files, monkeypatch):
    monkeypatch.setattr(checking, "CHUNK", 2)
    truncate(save(files[5], picture(1, 300, 300)))
    files[6].unlink()
    alone = verdicts(files)
    steps = []
    with checks_told(lambda done, total: steps.append((done, total))):
        assert verdicts(files, workers=2) == alone
    assert [row for row, sentence in enumerate(alone) if sentence] == [5, 6] and steps[-1][0] == steps[-1][1] == 2


def test_what_was_found_before_the_first_that_cannot_be_read_is_kept(files, read, monkeypatch):
    monkeypatch.setattr(checking, "CHUNK", 2)
    earlier(truncate(save(files[3], picture(1, 300, 300))))
    earlier(truncate(save(files[5], picture(1, 300, 300))))
    assert [row for row, sentence in enumerate(verdicts(files, first=True)) if sentence] == [3] and read == files[:4]
    read.clear()
    verdicts(files)
    assert read == files[3:]


def test_a_check_that_looks_less_closely_is_no_better_than_it_was(files, read):
    content = bytearray(save(files[1], picture(1, 100, 100)).read_bytes())
    content[100:2000] = bytes(1900)
    files[1].write_bytes(content)
    earlier(files[1])
    assert verdicts(files, check="none") == verdicts(files, check="fast") == [None] * 8
    levels, _ = known_of(lambda: read_known(manifest_of(files[0].parent)), look_at(files))
    assert levels.tolist() == [HEADER] * 8 and not read
    assert [row for row, sentence in enumerate(verdicts(files)) if sentence] == [1] and read == files
    files[2].unlink()
    assert "there is no image file" in verdicts(files, check="none")[2]


def test_other_files_of_a_data_set_stay_known(files, read):
    verdicts(files[:4])
    verdicts(files[4:])
    read.clear()
    verdicts(files)
    assert not read


def test_files_that_are_looked_at_together_are_seen_as_each_is_alone(files, monkeypatch, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.utime(files[1], ns=(1, 15 * 10**18))
    monkeypatch.chdir(files[0].parent)
    monkeypatch.setattr(manifest, "_TOGETHER", 2)
    odd = [tmp_path / "pipe", tmp_path, tmp_path / "none.png", "0.png", "\0.png", "a.tar/b.png", *files]
    found = look_at(odd)
    alone = [manifest.seen(os.fspath(path), os.getcwd()) for path in odd]
    assert [tuple(state) for state in found.states.tolist()] == [state for _, state, _ in alone]
    assert [name.tobytes() for name in found.names] == [name for name, _, _ in alone]
    assert found.places.tolist() == [place for _, _, place in alone]
    assert (found.states[:3] == -1).all() and (found.names[3] == found.names[6]).all()


def test_files_of_several_devices_lie_in_places_of_their_own():
    devices, numbers = (of.ravel() for of in np.meshgrid(np.arange(0, 70_000, 700), np.arange(1, 10**7, 99_991)))
    places = manifest._place(devices, numbers)
    assert len(np.unique(places)) == len(places) == 10_100
    assert manifest._place(np.array([2**62]), np.array([5])).dtype == np.int64


def test_options_that_do_not_exist_are_named(files):
    with pytest.raises(InputError, match="check is none, fast or full, not 'quick'"):
        verdicts(files, check="quick")
    with pytest.raises(InputError, match="check_workers is 0 or more, not -1"):
        verdicts(files, workers=-1)


@pytest.mark.parametrize("how", ["pipe", "folder", "text", "link to nothing"])
def test_what_is_no_manifest_is_warned_of_and_stops_nothing(files, how, tmp_path):
    place = manifest_of(files[0].parent)
    place.parent.mkdir(parents=True)
    if how == "pipe":
        os.mkfifo(place)
    elif how == "folder":
        place.mkdir()
    elif how == "text":
        place.write_text("{}")
    else:
        place.symlink_to(tmp_path / "gone")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert verdicts(files) == [None] * 8
    assert any(str(place) in str(warning.message) for warning in said) == (how != "link to nothing")


def test_a_cache_that_cannot_be_written_is_warned_of(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path / "file"))
    with pytest.warns(DataWarning, match="the next start checks these images again"):
        assert verdicts(files) == [None] * 8


def test_another_version_of_pillow_checks_anew(files, read, monkeypatch):
    verdicts(files)
    read.clear()
    monkeypatch.setattr(manifest.PIL, "__version__", "0")
    verdicts(files)
    assert read == files


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_a_manifest_with_other_bytes_never_says_what_was_not_found(files, changes, cut):
    place = manifest_of(files[0].parent)
    if not place.exists():
        verdicts(files)
        place.with_suffix(".whole").write_bytes(place.read_bytes())
    whole = place.with_suffix(".whole").read_bytes()
    content = bytearray(whole)
    for at, by in changes:
        content[at % len(content)] ^= by
    place.write_bytes(content[: len(content) - cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = read_known(place)
    assert not known_of(lambda: found, look_at([files[0].with_name("other.png")]))[0].any()
    if len(found.levels):  # blanks of the header may change, and texts that nobody reads: nothing else
        place.write_bytes(whole)
        held = read_known(place)
        for one, other in zip(found, held, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path / "a"))
    assert manifest.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("AVALANCHE_VLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert manifest.cache_folder() == tmp_path / "b" / "avalanche_vlm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert manifest.cache_folder() == tmp_path / ".cache" / "avalanche_vlm"
