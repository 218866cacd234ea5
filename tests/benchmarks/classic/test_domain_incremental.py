"""The domain-incremental family on miniature files."""

from __future__ import annotations

import pytest
import real_formats

from avalanche_vlm import benchmarks
from avalanche_vlm.errors import InputError

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


def test_the_family_is_listed():
    assert benchmarks.list(family="domain-incremental") == ["domainnet", "office-home", "cddb"]
