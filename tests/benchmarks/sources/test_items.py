"""Samples in columns are the samples that were given, and a split of them is one by hand."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from avalanche_vlm.benchmarks.sources.assemble import Readable, readable, split_indices, split_items
from avalanche_vlm.benchmarks.sources.items import PARTS, Item, Items, places_by_number
from avalanche_vlm.benchmarks.sources.manifest import look_at
from avalanche_vlm.benchmarks.sources.problems import Problems


def drawn(number: int, seed: int, splits: tuple[str, ...] = PARTS) -> list[Item]:
    draw = random.Random(seed)
    return [
        Item(f"/d/{draw.randrange(number)}.jpg", draw.choice("abcd"), draw.choice(["x", "y"]), draw.choice(splits), row)
        for row in range(number)
    ]


@pytest.mark.parametrize("number", [0, 1, 60])
def test_items_are_those_that_were_given(number):
    given = drawn(number, 0)
    items = Items.of(iter(given), "a.csv")
    assert list(items) == given and len(items) == number
    assert list(items[2::3]) == given[2::3]
    rows = np.array([row for row in range(number) if row % 4 == 1], np.int64)
    assert list(items.at(rows)) == [given[row] for row in rows]
    assert items.texts() == {of.text for of in given} and items.tasks() == list(dict.fromkeys(of.task for of in given))
    for task in ("x", "y", "z"):
        assert items.of_task(task).tolist() == [row for row, of in enumerate(given) if of.task == task]
        for part in PARTS:
            wanted = [row for row, of in enumerate(given) if (of.task, of.split) == (task, part)]
            assert items.of_task(task, part).tolist() == wanted
    if number:
        assert items.where(0) == "a.csv, row 0: " and Items.of(given).where(0) == "" and Items.of(given)[0].line == 0


def test_texts_that_become_equal_are_one():
    column = Items.of(drawn(40, 1)).text
    merged = column.recoded({"a": "p", "b": "q", "c": "p", "d": "q"}.__getitem__)
    assert sorted(merged.values) == ["p", "q"]
    was = [column.values[code] for code in column.codes]
    assert [merged.values[code] for code in merged.codes] == ["p" if text in "ac" else "q" for text in was]


def test_equal_numbers_are_grouped_in_the_order_in_which_they_come():
    keys = np.random.default_rng(0).integers(0, 9, 100)
    wanted: dict[int, list[int]] = {}
    for place, key in enumerate(keys.tolist()):
        wanted.setdefault(key, []).append(place)
    found = {key: places.tolist() for key, places in places_by_number(keys).items()}
    assert found == wanted and list(found) == list(wanted)
    assert places_by_number(keys[:0]) == {}


def test_images_stand_in_the_order_in_which_they_come(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    given = [Item(str(tmp_path / name), "t", "x", "", 0) for name in "cabca"]
    items = Items.of(given)
    seen = readable(items.at(np.array([1, 3, 4, 2])), Problems("raise"), tmp_path, "none", 0)
    assert list(seen.items.image.values) == [str(tmp_path / name) for name in "acb"]
    assert [of.image[-1] for of in seen.items] == list("acab")
    assert seen.files.states[:, 0].tolist() == [1, 1, 1]
    (tmp_path / "c").unlink()
    problems = Problems("skip")
    seen = readable(items, problems, tmp_path, "none", 0)
    assert [of.image[-1] for of in seen.items] == list("aba") and len(problems.skipped) == 2
    assert len(seen.files.names) == len(seen.items.image.values) == 2


def by_hand(items: list[Item], test_fraction: float, seed: int, by_class: bool) -> list[tuple[str, str, str, str]]:
    """The split item by item, of files that all hold different pictures."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if not item.split:
            groups.setdefault((item.task, item.text if by_class else ""), []).append(item)
    done = [item for item in items if item.split]
    sides = {item.image: item.split for item in done}
    for (task, text), members in sorted(groups.items(), key=lambda group: group[0]):
        images = list(dict.fromkeys(member.image for member in members))
        if len(images) < 2:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{task}\0{text}".encode())])
        free = [image for image in images if image not in sides]
        if len(free) == len(images):
            test = {images[place] for place in split_indices(len(images), test_fraction, rng)[1]}
        else:
            wanted = min(len(images) - 1, max(1, round(test_fraction * len(images))))
            wanted -= sum(sides.get(image) == "test" for image in images)
            test = {free[place] for place in rng.permutation(len(free))[: max(0, wanted)]}
        sides |= {image: "test" if image in test else "train" for image in free}
    left = [member for members in groups.values() for member in members if member.image in sides]
    return [(item.image, item.text, item.task, item.split or sides[item.image]) for item in [*done, *left]]


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("splits", [("",), PARTS, ("", "", "", "test")])
@pytest.mark.filterwarnings("ignore:.*both trained:avalanche_vlm.errors.DataWarning")
def test_a_split_of_columns_is_the_split_of_items(tmp_path, splits, by_class):
    given = []
    for item in drawn(120, 2, splits):
        path = tmp_path / item.image[3:]
        path.write_bytes(b"0" * int(path.stem))  # all of different lengths
        given.append(item._replace(image=str(path)))
    items = Items.of(given)
    seen = Readable(items, look_at(items.image.values))
    found = split_items(seen, 0.3, 5, by_class, Problems("skip"))
    assert [tuple(of[:4]) for of in found] == by_hand(given, 0.3, 5, by_class)
    assert list(items) == [of._replace(line=0) for of in given]  # which stay as they are
