"""The domain-incremental family on miniature files."""

from __future__ import annotations

import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks.datasets.domains import STYLES
from avalanche_vlm.errors import DataWarning, InputError

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable")


def test_domainnet_has_both_orders_and_one_set_of_classes(tmp_path):
    real_formats.domainnet(tmp_path)
    found = benchmarks.create("domainnet", root=str(tmp_path))
    assert list(found.task_names) == ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]
    space = found.label_space
    assert space.class_names == ("aircraft carrier", "zigzag") and space.tasks == ((0, 1),) * 6
    assert space.visible == "union" and found.protocol["n_train"] == [4] * 6 and found.protocol["n_test"] == [2] * 6
    other = benchmarks.create("domainnet", root=str(tmp_path), order="ranpac", shots=1)
    assert list(other.task_names) == ["real", "quickdraw", "painting", "sketch", "infograph", "clipart"]
    assert other.protocol["n_train"] == [2] * 6


def test_classes_of_one_name_are_one_class_whichever_compete(tmp_path):
    real_formats.domainnet(tmp_path)
    space = benchmarks.create("domainnet", root=str(tmp_path), label_space="task").label_space
    assert space.visible == "task" and len(space) == 2 and space.tasks == ((0, 1),) * 6


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("real/zigzag/a.jpg", "line 1: expected a path and a label from 0"),
        ("real/zigzag/a.jpg 0\nreal/cat/b.jpg 0", "line 2: the label 0 is 'cat' here, and 'zigzag' above"),
        ("real/zigzag/a.jpg " + "9" * 5000, "line 1: expected a path and a label from 0"),
    ],
)
def test_a_list_that_is_none_is_one_sentence(tmp_path, lines, sentence):
    real_formats.domainnet(tmp_path)
    (tmp_path / "domainnet/real_train.txt").write_text(lines)
    with pytest.raises(InputError, match=f"real_train.txt, {sentence}"):
        benchmarks.create("domainnet", root=str(tmp_path), order=["real"])


def test_office_home_is_split_by_a_seed(tmp_path):
    real_formats.office_home(tmp_path)
    found = benchmarks.create("office-home", root=str(tmp_path))
    assert list(found.task_names) == ["Art", "Clipart", "Product", "Real World"]
    assert found.label_space.class_names == ("Alarm Clock", "Bike")
    assert found.protocol["n_train"] == [16] * 4 and found.protocol["n_test"] == [4] * 4
    with pytest.raises(InputError, match=r"has no .*Real World: it should be the folder of 65 class folders"):
        (tmp_path / "OfficeHomeDataset_10072016/Real World").rename(tmp_path / "RealWorld")
        benchmarks.create("office-home", root=str(tmp_path))


def test_cddb_finds_real_and_fake_wherever_they_lie(tmp_path):
    real_formats.cddb(tmp_path)
    found = benchmarks.create("cddb", root=str(tmp_path))
    assert list(found.task_names) == ["gaugan", "biggan", "wild", "whichfaceisreal", "san"]
    assert found.label_space.class_names == ("real", "fake") and found.protocol["n_train"] == [4] * 5
    with pytest.raises(InputError, match=r"has no CDDB/cyclegan/train"):
        benchmarks.create("cddb", root=str(tmp_path), order="second")
    with pytest.raises(InputError, match="has no option 'equal_names'"):
        benchmarks.create("cddb", root=str(tmp_path), equal_names="apart")


@pytest.fixture(scope="module")
def core50(tmp_path_factory):
    root = tmp_path_factory.mktemp("core50")
    real_formats.core50(root)
    return root


def files(stream, number: int) -> list[str]:
    """The names of a task's image files."""
    dataset = stream[number].dataset
    while not hasattr(dataset, "images"):
        (dataset,) = dataset._datasets
    return [path.name for path in dataset.images.paths]


def test_core50_has_a_task_for_each_batch_and_tests_every_image_once(core50):
    found = benchmarks.create("core50", root=str(core50))
    assert found.task_names == tuple(f"batch {n}" for n in range(8)) and found.protocol["n_train"] == [6] * 8
    assert found.label_space.class_names == ("plug adapter 1", "plug adapter 2", "mobile phone 1")
    assert {name[:4] for name in files(found.train_stream, 1)} == {"C_02"}  # the second batch is the second session
    tested = [name for number in range(8) for name in files(found.test_stream, number)]
    assert sorted(tested) == sorted(path.name for s in (3, 7, 10) for path in core50.rglob(f"C_{s:02d}_*.png"))
    assert max(found.protocol["n_test"]) - min(found.protocol["n_test"]) <= 1
    assert any("every eighth image" in note for note in found.data.notes)


def test_core50_has_other_runs_and_kinds_of_objects(core50):
    other = benchmarks.create("core50", root=str(core50), run=3, classes="categories")
    assert {name[:4] for name in files(other.train_stream, 0)} == {"C_05"}
    assert other.label_space.class_names == ("plug adapter", "mobile phone") and other.protocol["run"] == 3
    with pytest.raises(
        InputError, match=r"has no core50/batches_filelists/NI_inc/run1/train_batch_00_filelist.txt: it"
    ):
        benchmarks.create("core50", root=str(core50), run=1)
    with pytest.raises(InputError, match="benchmark core50: run is a whole number from 0 to 9, not 10"):
        benchmarks.create("core50", root=str(core50), run=10)


@pytest.mark.parametrize("splits", ["folders", "coda"])
def test_styles_are_told_by_the_names_of_files(tmp_path, splits):
    real_formats.styles(tmp_path)
    found = benchmarks.create("imagenet-r-styles", root=str(tmp_path), splits=splits)
    assert found.task_names[:3] == ("tattoo", "sketch", "graphic") and len(found.task_names) == 15
    assert found.label_space.class_names == ("tench", "goldfish")
    cartoon = found.task_names.index("cartoon")
    assert found.protocol["n_train"][cartoon] == 2 and found.protocol["n_test"][cartoon] == 2
    assert set(files(found.train_stream, cartoon)) == {"cartoon_train0.jpg", "cartoon_train1.jpg"}
    assert "1 class of task 'cartoon' without training images: 'goldfish'" in found.data.notes
    listed = benchmarks.create("imagenet-r-styles", root=str(tmp_path), splits=splits, order="listed")
    assert listed.task_names[:3] == ("deviantart", "cartoon", "misc")


def test_a_style_without_images_is_one_sentence(tmp_path):
    real_formats.styles(tmp_path)
    for path in tmp_path.rglob("toy_*"):
        path.unlink()
    with pytest.raises(InputError, match="has no image of the style toy: its name would begin with toy_"):
        benchmarks.create("imagenet-r-styles", root=str(tmp_path), order=["toy"])


def test_styles_have_as_many_images_as_were_published(tmp_path):
    real_formats.styles(tmp_path)
    assert sum(STYLES.values()) == 30_000
    with pytest.warns(
        DataWarning, match="in the style toy, in folders has 2 classes, not 200, and 6 images .all parts"
    ):
        benchmarks.create("imagenet-r-styles", root=str(tmp_path), order=["toy"])


def test_the_family_is_listed():
    family = ["domainnet", "office-home", "cddb", "core50", "imagenet-r-styles"]
    assert benchmarks.list(family="domain-incremental") == family
