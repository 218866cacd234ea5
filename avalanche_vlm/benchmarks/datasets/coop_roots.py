"""Data sets with the splits of CoOp (arXiv 2109.01134), laid out as its instructions say: a folder each below one root,
with a JSON file of its splits."""

from __future__ import annotations

from collections.abc import Mapping

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet, wording
from avalanche_vlm.benchmarks.datasets.facts import about

_LISTS = "avalanche_vlm.benchmarks.sources.annotation_lists"
_COUNTS = "the counts are those of a table that was not verified against the split files"


def _split(
    name: str,
    title: str,
    summary: str,
    file: str,
    images: str,
    classes: int,
    sizes: tuple[int, int, int],
    renamed: Mapping[str, str] | None = None,
) -> DataSet:
    folder = images.partition("/")[0]
    place = f"{folder}/{file}"
    return DataSet(
        f"{name}-coop",
        title,
        f"{summary} with CoOp's split",
        f"{_LISTS}:split_file",
        {place: "the JSON file with CoOp's split", images: "the folder that the paths in that file begin in"},
        classes,
        dict(zip(("train", "valid", "test"), sizes, strict=True)),
        {"file": place, "images": images},
        renamed=renamed or {},
        notes=(_COUNTS,),
        **about(name),
    )


for _dataset in (
    DataSet(
        "aircraft-coop",
        "Aircraft",
        "FGVC-Aircraft with CoOp's split",
        f"{_LISTS}:variant_lists",
        {
            "fgvc_aircraft/variants.txt": "the list of the 100 variants",
            "fgvc_aircraft/images_variant_train.txt": "the list of training images",
            "fgvc_aircraft/images_variant_val.txt": "the list of validation images",
            "fgvc_aircraft/images_variant_test.txt": "the list of test images",
            "fgvc_aircraft/images": "the folder of all 10,000 images",
        },
        100,
        {"train": 3334, "valid": 3333, "test": 3333},
        {
            "folder": "fgvc_aircraft",
            "parts": {
                "train": "images_variant_train.txt",
                "valid": "images_variant_val.txt",
                "test": "images_variant_test.txt",
            },
        },
        **about("aircraft"),
    ),
    _split(
        "caltech101",
        "Caltech101",
        "Caltech 101",
        "split_zhou_Caltech101.json",
        "caltech-101/101_ObjectCategories",
        100,
        (4128, 1649, 2465),
    ),
    _split(
        "dtd",
        "DTD",
        "Describable Textures",
        "split_zhou_DescribableTextures.json",
        "dtd/images",
        47,
        (2820, 1128, 1692),
    ),
    _split(
        "eurosat",
        "EuroSAT",
        "EuroSAT in RGB",
        "split_zhou_EuroSAT.json",
        "eurosat/2750",
        10,
        (13500, 5400, 8100),
        renamed=wording("land of CoOp"),
    ),
    _split(
        "flowers",
        "Flowers",
        "Oxford Flowers 102",
        "split_zhou_OxfordFlowers.json",
        "oxford_flowers/jpg",
        102,
        (4093, 1633, 2463),
    ),
    _split(
        "food101",
        "Food",
        "Food-101",
        "split_zhou_Food101.json",
        "food-101/images",
        101,
        (50500, 20200, 30300),
    ),
    _split(
        "oxford-pets",
        "OxfordPets",
        "Oxford-IIIT Pet",
        "split_zhou_OxfordPets.json",
        "oxford_pets/images",
        37,
        (2944, 736, 3669),
    ),
    _split(
        "stanford-cars",
        "StanfordCars",
        "Stanford Cars",
        "split_zhou_StanfordCars.json",
        "stanford_cars",
        196,
        (6509, 1635, 8041),
    ),
    _split(
        "sun397",
        "SUN397",
        "SUN397",
        "split_zhou_SUN397.json",
        "sun397/SUN397",
        397,
        (15880, 3970, 19850),
    ),
    _split(
        "ucf101",
        "UCF101",
        "UCF101's middle frames",
        "split_zhou_UCF101.json",
        "ucf101/UCF-101-midframes",
        101,
        (7639, 1898, 3783),
    ),
):
    DATASETS.add(_dataset)
