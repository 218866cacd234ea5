"""Tables with a time or a domain become streams of steps, or one sentence names the row."""

from __future__ import annotations

import csv
import sys
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import table_stream
from avalanche_vlm.benchmarks.sources.time_steps import even_steps
from avalanche_vlm.errors import InputError

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.data())
def test_steps_never_fall_and_none_is_empty(counts, data):
    number = data.draw(st.integers(1, len(counts)))
    found = even_steps(counts, number)
    assert found == sorted(found) and set(found) == set(range(number))
    if number == len(counts):
        assert found == list(range(number))


@given(st.integers(1, 12), st.integers(1, 40))
def test_equal_counts_make_even_steps(number, each):
    sizes = [even_steps([1] * number * each, number).count(step) for step in range(number)]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("times")
    for number in range(24):
        save(root / f"{number}.png", picture(number, 20, 30))
    return root


def table(folder: Path, times: list[str], column: str = "when") -> Path:
    path = folder / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", column])
        writer.writerows([f"{k}.png", ("cat", "dog")[k % 2], time] for k, time in enumerate(times))
    return path


YEARS = [str(2020 - number // 8) for number in range(24)]


def test_every_time_is_a_step_in_the_order_of_time(folder):
    found = table_stream(table(folder, YEARS), time_column="when", **TRANSFORMS)
    assert found.task_names == ("2018", "2019", "2020") and found.protocol["steps"] == "time"
    assert found.label_space.visible == "union" and found.label_space.tasks == ((0, 1),) * 3
    assert found.protocol["columns"] == {"time": "when"} and found.protocol["n_train"] == [6, 6, 6]


def test_times_are_put_together_in_as_many_steps_as_are_asked_for(folder):
    days = [f"2024-{1 + number // 2:02d}-15" for number in range(24)]
    found = table_stream(table(folder, days[::-1]), time_column="when", steps=3, **TRANSFORMS)
    assert found.task_names == tuple(f"2024-{a:02d}-15 to 2024-{b:02d}-15" for a, b in ((1, 4), (5, 8), (9, 12)))
    first = {
        path.stem for stream in (found.train_stream, found.test_stream) for path in raw(stream[0].dataset).images.paths
    }
    assert first == {str(number) for number in range(16, 24)}  # the table is from the last day to the first


def test_numbers_are_ordered_as_numbers_and_dates_as_dates(folder):
    found = table_stream(table(folder, ["9"] * 8 + ["10"] * 8 + ["2.5"] * 8), time_column="when", **TRANSFORMS)
    assert found.task_names == ("2.5", "9", "10")
    mixed = ["2024-01-01T10:00+02:00"] * 12 + ["2024-01-01T09:00"] * 12  # 08:00 and 09:00 of one clock
    found = table_stream(table(folder, mixed), time_column="when", **TRANSFORMS)
    assert found.task_names == (mixed[0], mixed[-1])


def test_a_domain_is_a_task_with_the_same_classes(folder):
    cameras = [("north", "south")[number // 12] for number in range(24)]
    found = table_stream(table(folder, cameras, "camera"), domain_column="camera", **TRANSFORMS)
    assert found.task_names == ("north", "south") and found.protocol["steps"] == "domain"
    assert found.label_space.visible == "union" and found.label_space.class_names == ("cat", "dog")
    other = table_stream(
        folder / "data.csv", domain_column="camera", order=["south", "north"], label_space="task", **TRANSFORMS
    )
    assert other.task_names == ("south", "north") and other.label_space.visible == "task"


@pytest.mark.parametrize(
    ("times", "options", "sentence"),
    [
        (YEARS, {"steps": 4}, "steps is a number from 1 to 3, the number of distinct times, not 4"),
        (YEARS, {"steps": True}, "steps is a number from 1 to 3"),
        (["2020", "soon"] * 12, {}, "data.csv, row 3: the time is a number, as others are, not 'soon'"),
        (["2020-01-01", "soon"] * 12, {}, "data.csv, row 3: the time is a number, or a date as .* not 'soon'"),
        (["soon"] * 24, {"on_error": "skip"}, "data.csv has no row with a time that can be read"),
        (["nan", "2020"] * 12, {}, "row 2: the time is a number, as others are, not 'nan'"),
        (YEARS, {"order": ["2019"]}, "order does not apply to a time_column, whose steps are in the order of time"),
        (YEARS, {"domain_column": "label"}, "domain_column and time_column both say which task a sample is of"),
        (
            YEARS,
            {"time_column": "then"},
            r"has no column 'then' \(time_column; did you mean when\?\); it has image, label, when",
        ),
        (YEARS, {"time_column": None, "steps": 2}, "steps are made of a time_column, which is not given"),
    ],
)
def test_what_is_no_time_is_one_sentence(folder, times, options, sentence):
    with pytest.raises(InputError, match=sentence):
        table_stream(table(folder, times), **{"time_column": "when", **TRANSFORMS, **options})


def test_too_many_times_ask_for_steps(folder, monkeypatch):
    from avalanche_vlm.benchmarks.sources import time_steps

    monkeypatch.setattr(time_steps, "MOST_STEPS", 2)
    with pytest.raises(InputError, match=r"data.csv has 3 times: say with steps \(--steps N\) how many steps"):
        table_stream(table(folder, YEARS), time_column="when", **TRANSFORMS)


@pytest.mark.parametrize("known", ["2018", "2018-02-03"])
def test_rows_without_a_time_are_left_out_where_that_is_asked_for(folder, known):
    times = [known, "soon", "", "nan"] * 6
    found = table_stream(table(folder, times), time_column="when", on_error="skip", **TRANSFORMS)
    assert found.task_names == (known,) and sum(found.protocol["n_train"]) + sum(found.protocol["n_test"]) == 6
    assert len([sentence for sentence in found.data.skipped if "the time is a number" in sentence]) >= 12


DAYS = (
    "2024-05-31",
    "20240531",
    "2024-W05",
    "2024W05",
    "2024-W05-1",
    "2024W057",
    "2020-W53-7",
    "2024-0531",
    "2024-W53",
)
DAYS += ("2024-W051", "2024W05-1", "2024-W05-0", "2024-13-01", "202405-31", "0001-01-01", "2024-151", "\u0662024-05-31")
CLOCKS = ("", "T12", "t12:30", " 12:30:00.5", "T123000,1234567", "T1230", "T12:3000", "T1230:00", "T25", "T12:60", "T")
OFFSETS = ("", "Z", "z", "+02", "-02:30", "+0230", "+02:30:15", "+24:00", "+", "+2", "Z+02")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the forms that Python 3.10 does not read are told of below")
@pytest.mark.parametrize("day", DAYS)
def test_dates_are_those_that_python_reads_in_all_their_forms(day):
    from avalanche_vlm.benchmarks.sources import time_steps

    for clock, offset in product(CLOCKS, OFFSETS):
        text = f"{day}{clock}{offset}" if clock else day
        try:
            wanted = datetime.fromisoformat(text.replace("t", "T").replace("z", "Z"))
        except ValueError:
            wanted = None
        if wanted is not None and wanted.tzinfo is None:
            wanted = wanted.replace(tzinfo=timezone.utc)
        assert time_steps._date(text) == wanted, text


READ = {
    "2024-05-31T10:30:00Z": datetime(2024, 5, 31, 10, 30, tzinfo=timezone.utc),
    "20240531t103000z": datetime(2024, 5, 31, 10, 30, tzinfo=timezone.utc),
    "2024-05-31 12:30:00.5+0200": datetime(2024, 5, 31, 10, 30, 0, 500_000, tzinfo=timezone.utc),
    "2024-05-31_12:30-02": datetime(2024, 5, 31, 14, 30, tzinfo=timezone.utc),
    "2024-W05-1": datetime(2024, 1, 29, tzinfo=timezone.utc),
    "2024W051": datetime(2024, 1, 29, tzinfo=timezone.utc),
    "2024-W05": datetime(2024, 1, 29, tzinfo=timezone.utc),
}


@pytest.mark.parametrize("text", READ)
def test_dates_are_read_alike_in_every_version_of_python(text, monkeypatch):
    from avalanche_vlm.benchmarks.sources import time_steps

    class OfNoVersion(datetime):
        @classmethod
        def fromisoformat(cls, text):
            raise AssertionError("which forms this reads depends on the version of Python")

    monkeypatch.setattr(time_steps, "datetime", OfNoVersion)
    found = time_steps._date(text)
    assert found == READ[text] and found.tzinfo is not None
    for none in ("2024-13-01", "2024", "31.5.2024", "soon", "2024-05-31T25Z", "2024-0531", "2024-W54-1", "2024-05-31Z"):
        assert time_steps._date(none) is None
