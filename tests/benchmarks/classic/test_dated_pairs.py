"""TiC-CLIP's streams of captions on miniature files."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks.aside import open_aside
from avalanche_vlm.benchmarks.datasets.dated_pairs import MONTHS
from avalanche_vlm.benchmarks.sources.aside import AsideReading
from avalanche_vlm.benchmarks.sources.captioned import drawn_by_caption
from avalanche_vlm.benchmarks.sources.dated_pairs import caption_made
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.tiny import build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*caption.* longer than")

TOKENIZER = build_tokenizer()
YEARS = ["2014 to 2016", *map(str, range(2017, 2023))]
MONTHS_OF_YEARS = [8, 10, 9, 12, 12, 12, 12, 12, 9, 6]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tic")
    real_formats.tic_datacomp(root)
    real_formats.tic_batches(root, "yfcc15m", "0123")
    real_formats.tic_batches(root, "redcaps", ["2017", "2018", "2019", "2020"], train=30)
    return root


def create(name: str, root, **options):
    return benchmarks.create(name, root=str(root), tokenizer=TOKENIZER, check="none", **options)


def captions(stream, number: int) -> list[str]:
    dataset = stream[number].dataset
    while not hasattr(dataset, "captions"):
        (dataset,) = dataset._datasets
    return list(dataset.captions)


def test_datacomp_has_seven_steps_and_a_retrieval_set_for_each(root):
    found = create("tic-datacomp", root)
    assert list(found.task_names) == found.protocol["order"] == YEARS and found.kind == "pairs"
    assert found.protocol["steps"] == "time" and found.protocol["splits"] == "retrieval"
    assert found.protocol["n_train"] == [12, *[4] * 6] and found.protocol["n_test"] == [9, *[3] * 6]
    assert captions(found.train_stream, 0) == [f"trained {y} as {n}" for y in (2014, 2015, 2016) for n in range(4)]
    assert captions(found.train_stream, 2) == [f"trained 2018 as {n}" for n in range(4)]  # part 2 before part 10
    assert captions(found.test_stream, 6) == [f"tested 2022 as {n}" for n in range(3)]
    image, *_ = found.train_stream[2].dataset[0]
    assert image.image.shape == (3, 224, 224) and image.tokens.ndim == 1
    assert not found.data.chosen and found.protocol["split_seed"] is None


def test_without_retrieval_sets_some_pairs_of_each_step_are_drawn(root):
    found = create("tic-datacomp", root, splits="drawn", seed=3)
    assert found.protocol["n_test"] == [1] * 7 and found.protocol["n_train"] == [11, *[3] * 6]
    assert list(found.data.chosen) == YEARS and found.protocol["split_seed"] == 3
    (place,) = found.data.chosen["2017"]
    assert captions(found.test_stream, 1) == [f"trained 2017 as {place}"]
    assert any("the published test sets are the retrieval sets" in note for note in found.data.notes)


def test_datacomp_has_a_step_for_each_month_that_has_pairs(tmp_path):
    real_formats.tic_datacomp(tmp_path, each=2, tested=1, times=map(int, MONTHS), by="monthly")
    found = create("tic-datacomp", tmp_path, step_length="month")
    assert list(found.task_names) == list(MONTHS) and len(MONTHS) == 102
    assert [sum(month.startswith(str(year)) for month in MONTHS) for year in range(2014, 2024)] == MONTHS_OF_YEARS
    assert found.protocol["step_length"] == "month" and found.protocol["steps"] == "time"
    assert found.protocol["n_train"] == [2] * 102 and found.protocol["n_test"] == [1] * 102
    assert captions(found.train_stream, 1) == [f"trained 201404 as {n}" for n in range(2)]
    assert captions(found.test_stream, 101) == ["tested 202306 as 0"]
    assert not any("three years together" in note for note in found.data.notes)
    drawn = create("tic-datacomp", tmp_path, step_length="month", splits="drawn")
    assert list(drawn.data.chosen) == list(MONTHS) and drawn.protocol["n_test"] == [1] * 102
    (tmp_path / "tic/datacomp/monthly/train/201612").rename(tmp_path / "aside")
    with pytest.raises(InputError, match="monthly/train/201612 has no tars"):
        create("tic-datacomp", tmp_path, step_length="month")
    with pytest.raises(InputError, match="has no tic/datacomp/yearly/train/2014"):
        create("tic-datacomp", tmp_path)
    with pytest.raises(InputError, match="step_length"):
        create("tic-datacomp", tmp_path, step_length="week")


def test_one_percent_of_a_step_of_yfcc_is_drawn_and_stored(root):
    found = create("tic-yfcc", root)
    assert list(found.task_names) == ["2004 to 2008", "2009 to 2010", "2011 to 2012", "2013 to 2014"]
    assert found.protocol["n_test"] == [2] * 4 and found.protocol["n_train"] == [150] * 4  # of 150 and 2
    whole = [f"train 1 {n}" for n in range(150)] + [f"test 1 {n}" for n in range(2)]

    def key(caption: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"0 {caption}".encode(), digest_size=8).digest(), "little")

    wanted = sorted(whole, key=key)[:2]
    assert sorted(captions(found.test_stream, 1)) == sorted(wanted)
    assert [whole[place] for place in found.data.chosen["2009 to 2010"]] == captions(found.test_stream, 1)
    assert captions(found.train_stream, 1) == [caption for caption in whole if caption not in wanted]
    assert any("their test sets cannot be built again" in note for note in found.data.notes)
    other = create("tic-yfcc", root, seed=1)
    assert captions(other.test_stream, 1) != captions(found.test_stream, 1)
    assert found.data.as_json()["chosen"] == found.data.chosen


def test_whoever_holds_the_pairs_in_another_order_draws_the_same():
    here = [f"picture {n}" for n in range(500)]
    there = here[250:] + here[:250]
    drawn = {here[place] for place in drawn_by_caption(here, 0.01, 5)}
    assert drawn == {there[place] for place in drawn_by_caption(there, 0.01, 5)} and len(drawn) == 5


def test_what_ones_own_run_of_the_script_put_aside_can_be_tested(root):
    found = create("tic-redcaps", root, splits="own")
    assert list(found.task_names) == ["2017", "2018", "2019", "2020"] and found.protocol["steps"] == "time"
    assert captions(found.test_stream, 3) == ["test 2020 0", "test 2020 1"] and not found.data.chosen
    assert found.protocol["n_train"] == [30] * 4


def test_the_scripts_tables_are_read_where_there_are_no_tars(tmp_path):
    place = tmp_path / "tic/yfcc15m"
    for batch in range(4):
        rows = "".join(f"a/{batch}{n}.jpg\tsaid {batch} {n}\n" for n in range(3))
        real_formats.write(place / f"splits/train_batch_{batch}.csv", f"path\tcaption\n{rows}")
        for n in range(3):
            real_formats.dot(place / f"images/a/{batch}{n}.jpg", n, n)
    found = create("tic-yfcc", tmp_path)
    assert found.protocol["n_train"] == [2] * 4
    place = found.data.chosen["2011 to 2012"][0]
    assert captions(found.test_stream, 2) == [f"said 2 {place}"]


def test_a_caption_of_yfcc_is_title_description_and_tags(tmp_path):
    said = {"title": "A+red%20fox", "description": "<a href='x'>at</a> dusk", "usertags": "fox,dusk"}
    assert caption_made(said) == "A red fox. at dusk. fox,dusk"
    assert caption_made({"title": "x", "description": None, "usertags": "y"}) == "x. . y"
    assert len(caption_made({"title": "word " * 200})) == 500
    assert caption_made({"title": "caf\u00c3\u00a9"}) == "caf\u00e9. . "  # UTF-8 that was read as another encoding
    for batch in range(4):
        samples = [real_formats.pair(n, str(n), **said) for n in range(2)]
        real_formats.tars(tmp_path / f"tic/yfcc15m/train_batch_{batch}", samples, 5, "{}.tar")
    found = create("tic-yfcc", tmp_path)
    assert captions(found.train_stream, 0) == ["A red fox. at dusk. fox,dusk"]


def test_a_held_out_set_has_the_retrieval_sets_of_all_steps(root):
    model = SimpleNamespace(transforms=SimpleNamespace(train=None, eval=None), tokenizer=TOKENIZER)
    reading = AsideReading(model, check="none")
    (of,) = open_aside(["tic-datacomp"], root, reading)
    assert len(of.dataset) == 27
    (of,) = open_aside(["tic-redcaps"], root, reading)
    assert len(of.dataset) == 4


@pytest.mark.parametrize(
    ("gone", "name", "options", "sentence"),
    [
        (
            "tic/datacomp/yearly/train/2016",
            "tic-datacomp",
            {},
            "has no tic/datacomp/yearly/train/2016: it should be the folder of the tars of 2016 (TiC-DataComp by year",
        ),
        (
            "tic/datacomp/yearly/eval/retrieval/2019/nshards.txt",
            "tic-datacomp",
            {},
            "has no tic/datacomp/yearly/eval/retrieval/2019/nshards.txt: it should be the number of tars beside it",
        ),
        ("tic/datacomp/yearly/eval/retrieval/2017/1.tar", "tic-datacomp", {}, "has no 1.tar: nshards.txt says 2 tars"),
        ("tic/datacomp", "tic-datacomp", {}, "has no tic/datacomp/yearly/train/2014: it should be the folder of the"),
        (
            "tic/redcaps",
            "tic-redcaps",
            {},
            "has no tic/redcaps: it should be the folder of tars as the authors' ",
        ),
        (
            "tic/redcaps/train_batch_2018__00000000.tar",
            "tic-redcaps",
            {},
            "tic/redcaps has neither tars train_batch_2018__*.tar nor splits/train_batch_2018.csv",
        ),
        (
            "tic/redcaps/test_batch_2020__00000000.tar",
            "tic-redcaps",
            {"splits": "own"},
            "tic/redcaps has neither tars test_batch_2020__*.tar nor splits/test_batch_2020.csv",
        ),
    ],
)
def test_what_is_missing_is_named_with_what_it_should_hold(root, gone, name, options, sentence):
    aside = root / "aside"
    (root / gone).rename(aside)
    try:
        with pytest.raises(InputError) as caught:
            create(name, root, **options)
    finally:
        aside.rename(root / gone)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_year_without_tars_and_a_pair_without_a_caption_are_one_sentence(tmp_path):
    real_formats.tic_datacomp(tmp_path, each=2, tested=1)
    place = tmp_path / "tic/datacomp/yearly/train/2021"
    (place / "00000000.tar").unlink()
    with pytest.raises(InputError, match="train/2021 has no tars, nor has a folder in it"):
        create("tic-datacomp", tmp_path)
    real_formats.tars(place, [real_formats.pair(1, "1", txt=" "), real_formats.pair(2, "2", txt="told")], 2, "{}.tar")
    with pytest.raises(InputError, match=r"0\.tar, row 1: the caption is empty"):
        create("tic-datacomp", tmp_path)
    found = create("tic-datacomp", tmp_path, on_error="skip")
    assert len(found.data.skipped) == 1 and found.protocol["n_train"][5] == 1


def test_equal_captions_are_drawn_one_by_one():
    captions = [f"picture {number}" for number in range(800)] + ["untitled"] * 200
    most = max(sum(place >= 800 for place in drawn_by_caption(captions, 0.01, seed)) for seed in range(100))
    assert most < 8  # all ten, or none, where they stand and fall together
