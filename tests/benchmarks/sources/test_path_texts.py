"""Paths in little memory are the paths that were given."""

from __future__ import annotations

import pickle
import random
import weakref

import numpy as np
import pytest

from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts

FOLDERS = [
    ("/data/one/", ["a.jpg", "b.jpg"]),
    ("/data/none/", []),
    ("/data/Käse/", ["größe 1.png", "\udce9.png", "", "日本.jpg"]),
    ("", ["/elsewhere/x.tif"]),
    ("/data/one/", ["c.jpg"]),
]
TEXTS = [folder + name for folder, names in FOLDERS for name in names]


@pytest.fixture(params=["beneath", "of", "pickled", "joined twice"])
def paths(request) -> PathTexts:
    found = PathTexts.of(TEXTS) if request.param == "of" else PathTexts.beneath(FOLDERS)
    if request.param == "joined twice":
        return PathTexts.of([*found, *found])[: len(TEXTS)]
    return pickle.loads(pickle.dumps(found)) if request.param == "pickled" else found


def test_every_path_is_the_one_that_was_given(paths):
    assert list(paths) == TEXTS and len(paths) == len(TEXTS)
    assert [paths[row] for row in range(-len(TEXTS), len(TEXTS))] == TEXTS * 2
    for row in (len(TEXTS), -len(TEXTS) - 1):
        with pytest.raises(IndexError, match=f"there are {len(TEXTS)} paths, and none at {row}"):
            paths[row]


def test_some_of_the_paths_and_some_of_these(paths):
    draw = random.Random(0)
    for _ in range(20):
        rows = [draw.randrange(-len(TEXTS), len(TEXTS)) for _ in range(draw.randrange(12))]
        some, wanted = paths.at(rows), [TEXTS[row] for row in rows]
        assert list(some) == wanted == list(paths.at(np.array(rows, np.int64)))
        assert list(some[1::2]) == wanted[1::2] and list(some[::-1]) == wanted[::-1]
        again = [draw.randrange(len(rows)) for _ in range(5)] if rows else []
        assert list(some.at(again)) == [wanted[row] for row in again]
    with pytest.raises(IndexError, match="none at some of the places"):
        paths.at([0, len(TEXTS)])


def test_more_paths_than_are_made_together():
    texts = [f"/data/{number % 7}/{number}.jpg" for number in range(5000)]
    paths = PathTexts.of(texts)
    assert list(paths) == texts and list(paths[10:4000:3]) == texts[10:4000:3] and paths[4096] == texts[4096]
    assert list(PathTexts.of([])) == [] == list(PathTexts.beneath([]))


def test_a_path_takes_its_name_and_little_more():
    names = [f"{number:012d}.jpg" for number in range(20_000)]
    paths = PathTexts.beneath([("/a/long/way/down/to/the/folder/", names)])
    assert len(pickle.dumps(paths)) < 22 * len(names)  # 16 bytes of a name, where it ends, and which folder it is in
    assert len(pickle.dumps(paths.at(range(0, 20_000, 2)))) < 24 * len(names)


def test_a_part_goes_elsewhere_without_the_others():
    names = [f"{number:012d}.jpg" for number in range(20_000)]
    many = [(f"/data/folder {number}/", names[number * 20 : number * 20 + 20]) for number in range(1000)]
    paths = PathTexts.beneath(many)
    texts = list(paths)
    for rows in (range(100), range(15_000, 19_000, 2), [7, 3, 3, -1] * 9, [5] * 2000, []):
        part, wanted = ImageFiles(paths).at(rows), [texts[row] for row in rows]
        sent = pickle.dumps(part)
        assert len(sent) < 1000 + 40 * len(set(rows)) + 2 * len(rows)
        again = pickle.loads(sent)
        assert list(again.path_texts) == wanted == list(part.path_texts)
        assert list(again.at(range(0, len(wanted), 3)).path_texts) == wanted[::3]
    whole = pickle.loads(pickle.dumps(paths[::-1]))
    assert list(whole) == texts[::-1] and whole[-1] == texts[0]


def test_a_small_part_does_not_keep_the_others_in_memory():
    paths = PathTexts.beneath([("/data/", [f"{number}.jpg" for number in range(3200)])])
    small, large, whole = paths.at(range(0, 3200, 32)), paths.at(range(0, 3200, 2)), weakref.ref(paths._bounds)
    assert large._bounds is paths._bounds
    wanted = list(paths)
    del paths, large
    assert whole() is None and list(small) == wanted[::32]


def test_image_files_of_such_paths_are_those_of_texts(tmp_path):
    files, texts = ImageFiles(PathTexts.beneath(FOLDERS), 8), ImageFiles(TEXTS, 8)
    for some, of in ((files, texts), (files[1:4], texts[1:4]), (files.at([3, -1]), texts.at([3, -1]))):
        assert isinstance(some.path_texts, PathTexts) and some.draft == 8
        assert some.paths == of.paths and len(some) == len(of)
