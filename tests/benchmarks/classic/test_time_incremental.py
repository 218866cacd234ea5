"""The time-incremental family on miniature files."""

from __future__ import annotations

import json

import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable", "ignore:the class name")


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    root = tmp_path_factory.mktemp("clear")
    real_formats.clear(root)
    return root


def paths(stream, number: int) -> list[str]:
    """The image files of a task, below the root."""
    dataset = stream[number].dataset
    while not hasattr(dataset, "images"):
        (dataset,) = dataset._datasets
    return ["/".join(path.parts[-4:]) for path in dataset.images.paths]


def test_a_bucket_is_a_task_with_a_test_part_of_its_own(clear):
    found = benchmarks.create("clear10", root=str(clear))
    assert found.task_names == ("bucket 1", "bucket 2", "bucket 3") and found.protocol["steps"] == "time"
    assert found.label_space.class_names == ("baseball", "BACKGROUND") and found.label_space.visible == "union"
    assert found.protocol["n_train"] == [4] * 3 and found.protocol["n_test"] == [2] * 3
    assert paths(found.test_stream, 1) == [f"labeled_images/2/{name}/0.jpg" for name in ("baseball", "BACKGROUND")]


def test_streaming_trains_on_all_of_a_bucket_and_tests_on_all_of_the_next(clear):
    found = benchmarks.create("clear10", root=str(clear), evaluation="streaming")
    assert found.task_names == ("bucket 1", "bucket 2") and found.protocol["n_train"] == found.protocol["n_test"] == [
        6,
        6,
    ]
    assert sorted(paths(found.test_stream, 0)) == sorted(paths(found.train_stream, 1))
    assert {path.split("/")[1] for path in paths(found.test_stream, 1)} == {"3"}


def test_the_first_edition_has_divisions(clear):
    one, other = (
        benchmarks.create("clear10", root=str(clear), splits="neurips2021", division=division) for division in (0, 1)
    )
    for number, found in enumerate((one, other)):
        assert found.protocol["n_train"] == [4] * 3 and found.protocol["n_test"] == [2] * 3
        assert {path[-5] for path in paths(found.test_stream, 0)} == {str(number)}
    whole = benchmarks.create("clear10", root=str(clear), splits="neurips2021", evaluation="streaming")
    assert whole.protocol["n_test"] == [6, 6]
    with pytest.raises(
        InputError, match=r"has no clear10_neurips2021/training_folder/testset_ratio_0.3/split_4: it should"
    ):
        benchmarks.create("clear10", root=str(clear), splits="neurips2021", division=4)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("train/labeled_metadata.json", [], "labeled_metadata.json is no JSON object of the kind that CLEAR has"),
        ("test/labeled_metadata.json", {"7": {}}, "has the buckets 7, and the training part 1, 2, 3"),
        ("train/labeled_metadata.json", {"1": {"baseball": "x"}}, "there is no table at .*train/x"),
        ("train/labeled_metadata/2/baseball.json", {"0": {}}, "baseball.json has an entry without IMG_PATH"),
        ("train/labeled_metadata.json", {"1": {}}, "bucket 1 has no file for the class 'baseball'"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path, file, content, sentence):
    real_formats.clear(tmp_path)
    (tmp_path / "clear10" / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        benchmarks.create("clear10", root=str(tmp_path))


def test_a_list_of_the_first_edition_that_is_none_is_one_sentence(tmp_path):
    real_formats.clear(tmp_path)
    place = tmp_path / "clear10_neurips2021/training_folder/testset_ratio_0.3/split_0/2/train.txt"
    place.write_text("a.jpg 2\n")
    with pytest.raises(InputError, match=r"train.txt: image 0 has the class id 2, and there are 2 classes"):
        benchmarks.create("clear10", root=str(tmp_path), splits="neurips2021")


def test_one_bucket_has_no_next_one(tmp_path):
    real_formats.clear(tmp_path, buckets=1)
    with pytest.raises(
        InputError, match="benchmark clear10: evaluation=streaming tests on the next bucket; there is one"
    ):
        benchmarks.create("clear10", root=str(tmp_path), evaluation="streaming")


def test_the_family_is_listed():
    pairs = ["tic-datacomp", "tic-yfcc", "tic-redcaps"]
    assert benchmarks.list(family="time-incremental") == ["clear10", "clear100", *pairs]
    assert benchmarks.list("pairs", family="time-incremental") == pairs
