"""Data sets in class folders and with lists of paths, in miniature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import real_formats
from torchvision.datasets import ImageFolder

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, wording
from avalanche_vlm.benchmarks.families.building import other_sizes
from avalanche_vlm.errors import InputError


def names_of(part) -> list[tuple[str, str]]:
    return [(path.parent.name, path.name) for path in part.paths]


def test_class_folders_are_numbered_as_torchvision_numbers_them(tmp_path):
    real_formats.class_folders(tmp_path / "imagenet/train", [*real_formats.SYNSETS, "n0_later"], 11)
    real_formats.imagenet(tmp_path)
    found, theirs = DATASETS.get("imagenet").load(tmp_path), ImageFolder(tmp_path / "imagenet/train")
    assert [(str(p), int(y)) for p, y in zip(found.parts["train"].paths, found.parts["train"].labels, strict=True)] == (
        theirs.samples
    )


def test_imagenet100_is_the_first_100_synsets_and_no_other_choice(tmp_path):
    first = list(wording("ImageNet"))[:100]
    for part in ("train", "val"):
        real_formats.class_folders(tmp_path / "all/imagenet" / part, [*first, "n15075141"], 1)
        real_formats.class_folders(tmp_path / "other/imagenet" / part, [*first[:99], "n15075141"], 1)
    found = DATASETS.get("imagenet100").load(tmp_path / "all")
    assert list(found.keys) == first and len(found.parts["test"]) == 100
    with pytest.raises(InputError, match="train has the class folder n15075141, which is none of the 100"):
        DATASETS.get("imagenet100").load(tmp_path / "other")
    assert "the class 'n1', which it was not published with" in str(
        other_sizes(DATASETS.get("imagenet"), replace(found, keys=[*first[1:], "n1"]))
    )


def test_tinyimagenet_has_the_ids_of_its_list(tmp_path):
    real_formats.tinyimagenet(tmp_path)
    found = DATASETS.get("tinyimagenet").load(tmp_path)
    assert list(found.names) == ["Egyptian Mau", "goldfish", "lemon", "volleyball"]
    assert found.parts["test"].labels.tolist() == [0, 1, 2, 3] * 2
    train = found.parts["train"]
    assert {path.parents[1].name: int(label) for path, label in zip(train.paths, train.labels, strict=True)} == {
        "n02124075": 0, "n01443537": 1, "n07749582": 2, "n04540053": 3
    }  # fmt: skip


def test_imagenet_r_has_the_split_that_is_named(tmp_path):
    real_formats.imagenet_r(tmp_path)
    coda, rapf, prepared = (DATASETS.get(f"imagenet-r-{of}").load(tmp_path) for of in ("coda", "rapf", "folders"))
    assert names_of(coda.parts["test"]) == [(of, "art_3.jpg") for of in real_formats.SYNSETS]
    assert names_of(rapf.parts["test"]) == [(of, "art_1.jpg") for of in real_formats.SYNSETS]
    assert len(coda.parts["train"]) == len(rapf.parts["train"]) == len(prepared.parts["train"]) == 8
    assert list(coda.names) == ["tench", "goldfish", "great white shark", "tiger shark"] == list(rapf.names)
    (tmp_path / "imagenet-r/imagenet-r_test.yaml").write_text("data:\n- tench.jpg\n")
    with pytest.raises(InputError, match=r"imagenet-r_test.yaml has the path 'tench.jpg', in which no class folder"):
        DATASETS.get("imagenet-r-coda").load(tmp_path)
    (tmp_path / "imagenet-r/imgr_train_test_split.txt").write_text("train\nn0/a.jpg\n")
    with pytest.raises(InputError, match="has no paths below a heading test"):
        DATASETS.get("imagenet-r-rapf").load(tmp_path)


def test_birds_have_the_official_split_and_names_without_numbers(tmp_path):
    real_formats.cub200(tmp_path)
    found = DATASETS.get("cub200").load(tmp_path)
    assert list(found.names) == ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]
    assert found.parts["train"].labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [name for _, name in names_of(found.parts["test"])] == [
        f"{of}_Albatross_0003.jpg" for of in ("Black_footed", "Laysan", "Sooty")
    ]
    (tmp_path / "CUB_200_2011/train_test_split.txt").write_text("1 1\n")
    with pytest.raises(InputError, match=r"images.txt has the image 2, which the other lists do not have"):
        DATASETS.get("cub200").load(tmp_path)


def test_prepared_folders_may_be_called_test_or_val(tmp_path):
    real_formats.folders(tmp_path, "ucf101", ["Apply Eye Makeup", "Archery"])
    found = DATASETS.get("ucf101-folders").load(tmp_path)
    (tmp_path / "ucf101/test").rename(tmp_path / "ucf101/val")
    assert names_of(DATASETS.get("ucf101-folders").load(tmp_path).parts["test"]) == names_of(found.parts["test"])
    (tmp_path / "ucf101/val").rename(tmp_path / "ucf101/other")
    with pytest.raises(InputError, match="has no ucf101/test or ucf101/val: it should be the folder of 100 class"):
        DATASETS.get("ucf101-folders").load(tmp_path)


def test_lists_of_names_are_complete():
    from open_clip import IMAGENET_CLASSNAMES

    assert list(wording("ImageNet").values()) == list(IMAGENET_CLASSNAMES)
    assert list(wording("ImageNet")) == sorted(wording("ImageNet")) and len(wording("ImageNet")) == 1000
    assert len(wording("prompts for ImageNet")) == 7 and len(wording("prompts for actions")) == 48
    for name, n in (("order of CIFAR-100", 100), ("order of TinyImageNet", 200)):
        assert np.array_equal(np.sort(wording(name)), np.arange(n))


def test_tinyimagenet_says_whose_names_it_has():
    assert any("ZSCL has a list of its own" in note for note in DATASETS.get("tinyimagenet").notes)
