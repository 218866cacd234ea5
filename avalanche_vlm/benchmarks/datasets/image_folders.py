"""Data sets that are handed out, or passed on, as class folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet, wording
from avalanche_vlm.benchmarks.datasets.facts import about

_FOLDERS = "avalanche_vlm.benchmarks.sources.class_folders"
_IMAGENET = "non-commercial research and education, under ImageNet's terms"
_FIRST = tuple(wording("ImageNet"))[:100]
_LAMDA = "which images and classes the authors' folders hold is not published as a list"


def _prepared(name: str, title: str, summary: str, classes: int, facts: Mapping[str, Any], **others: Any) -> DataSet:
    """The folders that LAMDA's tools are handed out with."""
    return DataSet(
        f"{name}-folders",
        title,
        f"{summary} in LAMDA's folders",
        f"{_FOLDERS}:class_folders",
        {
            f"{name}/train": f"the folder of {classes} class folders with training images",
            f"{name}/test or {name}/val": f"the folder of {classes} class folders with test images",
        },
        classes,
        {},
        {"parts": {"train": f"{name}/train", "test": f"{name}/test or {name}/val"}},
        renamed=wording("ImageNet") if name == "imagenet-r" else {},
        notes=(_LAMDA,),
        **{**facts, **others},
    )


for _dataset in (
    DataSet(
        "tinyimagenet",
        "TinyImageNet",
        "TinyImageNet",
        f"{_FOLDERS}:annotated_folders",
        {
            "tiny-imagenet-200/wnids.txt": "the list of the 200 synsets, in the order of the class ids",
            "tiny-imagenet-200/train": "the folder of 200 class folders",
            "tiny-imagenet-200/val/val_annotations.txt": "the classes of the test images",
            "tiny-imagenet-200/val/images": "the folder of 10,000 test images",
        },
        200,
        {"train": 100_000, "test": 10_000},
        {"folder": "tiny-imagenet-200"},
        renamed=wording("ImageNet"),
        source="Le, Yang 2015",
        licence=_IMAGENET,
        notes=(
            "the validation part is what is tested, since the test part has no labels",
            "the names are ImageNet's, by synset; ZSCL has a list of its own, whose words may be others",
        ),
    ),
    DataSet(
        "imagenet",
        "ImageNet",
        "ImageNet (ILSVRC 2012)",
        f"{_FOLDERS}:class_folders",
        {
            "imagenet/train": "the folder of 1,000 class folders with training images",
            "imagenet/val": "the folder of 1,000 class folders with validation images",
        },
        1000,
        {"train": 1_281_167, "test": 50_000},
        {"parts": {"train": "imagenet/train", "test": "imagenet/val"}},
        renamed=wording("ImageNet"),
        keys=tuple(wording("ImageNet")),
        prompts=tuple(wording("prompts for ImageNet")),
        source="arXiv 1409.0575",
        licence=_IMAGENET,
    ),
    DataSet(
        "imagenet100",
        "ImageNet-100",
        "the first 100 synsets of ImageNet",
        f"{_FOLDERS}:class_folders",
        {
            "imagenet/train": "the folder of class folders with training images",
            "imagenet/val": "the folder of class folders with validation images",
        },
        100,
        {"test": 5000},
        {"parts": {"train": "imagenet/train", "test": "imagenet/val"}, "only": _FIRST},
        renamed=wording("ImageNet"),
        keys=_FIRST,
        source="arXiv 1409.0575",
        licence=_IMAGENET,
        notes=("the number of training images is not verified",),
    ),
    DataSet(
        "cub200",
        "CUB-200",
        "Caltech-UCSD Birds 200-2011",
        "avalanche_vlm.benchmarks.sources.path_lists:bird_lists",
        {
            "CUB_200_2011/images.txt": "the list of images",
            "CUB_200_2011/image_class_labels.txt": "the classes of the images",
            "CUB_200_2011/train_test_split.txt": "the official split",
            "CUB_200_2011/classes.txt": "the list of the 200 classes",
            "CUB_200_2011/images": "the folder of 200 class folders",
        },
        200,
        {"train": 5994, "test": 5794},
        {"folder": "CUB_200_2011"},
        **about("cub200"),
    ),
    DataSet(
        "imagenet-r-coda",
        "ImageNet-R",
        "ImageNet-R with CODA-Prompt's split",
        "avalanche_vlm.benchmarks.sources.path_lists:yaml_lists",
        {
            "imagenet-r/imagenet-r_train.yaml": "CODA-Prompt's list of training images",
            "imagenet-r/imagenet-r_test.yaml": "CODA-Prompt's list of test images",
            "imagenet-r": "the folder of 200 class folders",
        },
        200,
        {"train": 24_000, "test": 6000},
        {
            "folder": "imagenet-r",
            "parts": {"train": "imagenet-r_train.yaml", "test": "imagenet-r_test.yaml"},
        },
        renamed=wording("ImageNet"),
        **about("imagenet-r"),
    ),
    DataSet(
        "imagenet-r-rapf",
        "ImageNet-R",
        "ImageNet-R with RAPF's split",
        "avalanche_vlm.benchmarks.sources.path_lists:headed_list",
        {
            "imagenet-r/imgr_train_test_split.txt": "RAPF's list, with the headings train and test",
            "imagenet-r": "the folder of 200 class folders",
        },
        200,
        {"train": 24_000, "test": 6000},
        {"folder": "imagenet-r", "file": "imgr_train_test_split.txt"},
        renamed=wording("ImageNet"),
        **about("imagenet-r"),
        notes=("RAPF's list holds a line that is no image, which is left out",),
    ),
    _prepared("imagenet-r", "ImageNet-R", "ImageNet-R", 200, about("imagenet-r"),
              prompts=tuple(wording("prompts for ImageNet"))),
    _prepared("cub", "CUB-200", "CUB-200", 200, about("cub200")),
    _prepared("aircraft", "Aircraft", "FGVC-Aircraft", 100, about("aircraft")),
    _prepared("cars", "StanfordCars", "100 of Stanford Cars", 100, about("stanford-cars"),
              prompts=tuple(wording("prompts for cars"))[1:]),
    _prepared("food101", "Food", "100 of Food-101", 100, about("food101"),
              prompts=("a photo of {}, a type of food.",)),
    _prepared("ucf101", "UCF101", "100 of UCF101", 100, about("ucf101"), prompts=tuple(wording("prompts for actions"))),
    _prepared("sun", "SUN397", "300 of SUN397", 300, about("sun397")),
    _prepared("objectnet", "ObjectNet", "200 of ObjectNet", 200, {},
              prompts=tuple(wording("prompts for ImageNet")),
              source="Barbu, Mayo, Alverio, Luo, Wang, Gutfreund, Tenenbaum, Katz 2019",
              licence="its own, which forbids to tune parameters of a model on it: a stream that trains on it does so"),
):  # fmt: skip
    DATASETS.add(_dataset)
