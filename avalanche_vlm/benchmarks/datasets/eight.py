"""Data sets of the eight that are merged since task vectors (arXiv 2212.04089), in folders as its authors have them."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet, wording
from avalanche_vlm.benchmarks.datasets.facts import about

_FOLDERS = "avalanche_vlm.benchmarks.sources.class_folders"
_READY = "which images the ready-made folders hold is not published as a list"


def _ready(name: str, title: str, summary: str, folder: str, classes: int, facts: str, **others: Any) -> DataSet:
    """A data set that its users have as folders of a training and a test part."""
    reading = others.pop("read", f"{_FOLDERS}:class_folders")
    return DataSet(
        name,
        title,
        summary,
        reading,
        {
            f"{folder}/train": f"the folder of {classes} class folders with training images",
            f"{folder}/test": f"the folder of {classes} class folders with test images",
        },
        classes,
        {},
        {"parts": {"train": f"{folder}/train", "test": f"{folder}/test"}},
        notes=(_READY,),
        **{**about(facts), **others},
    )


for _dataset in (
    DataSet(
        "gtsrb",
        "GTSRB",
        "the German Traffic Sign Recognition Benchmark",
        "avalanche_vlm.benchmarks.sources.sign_lists:traffic_signs",
        {
            "gtsrb/GTSRB/Training": "the folder of 43 class folders with training images",
            "gtsrb/GTSRB/Final_Test/Images": "the folder of 12,630 test images",
            "gtsrb/GT-final_test.csv": "the classes of the test images",
        },
        43,
        {"train": 26_640, "test": 12_630},
        {
            "folder": "gtsrb",
            "train": "GTSRB/Training",
            "test": "GTSRB/Final_Test/Images",
            "table": "GT-final_test.csv",
        },
        renamed=wording("signs"),
        keys=tuple(wording("signs")),
        **about("gtsrb"),
        notes=("the number of training images is that of the archive that torchvision takes, and is not verified",),
    ),
    DataSet(
        "svhn",
        "SVHN",
        "Street View House Numbers, cropped",
        "avalanche_vlm.benchmarks.sources.mat_lists:digit_arrays",
        {
            "svhn/train_32x32.mat": "the file of 73,257 training pictures",
            "svhn/test_32x32.mat": "the file of 26,032 test pictures",
        },
        10,
        {"train": 73_257, "test": 26_032},
        {"folder": "svhn", "parts": {"train": "train_32x32.mat", "test": "test_32x32.mat"}},
        **about("svhn"),
    ),
    _ready("resisc45", "RESISC45", "RESISC45 of satellite pictures, in folders", "resisc45", 45, "resisc45"),
    _ready("dtd-folders", "DTD", "Describable Textures in folders", "dtd", 47, "dtd"),
    _ready("eurosat-folders", "EuroSAT", "EuroSAT in RGB, in folders", "EuroSAT_Splitted", 10, "eurosat",
           renamed=wording("land"), keys=tuple(wording("land"))),
    _ready("sun397-folders", "SUN397", "SUN397 in folders", "SUN397", 397, "sun397",
           read=f"{_FOLDERS}:lettered_folders"),
):  # fmt: skip
    DATASETS.add(_dataset)
