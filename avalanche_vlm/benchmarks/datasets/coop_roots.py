"""Data sets with the splits of CoOp (arXiv 2109.01134), laid out as its instructions say: a folder each below one root,
with a JSON file of its splits."""

from __future__ import annotations

from collections.abc import Mapping

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, PHOTO, DataSet, wording

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
    *,
    renamed: Mapping[str, str] | None = None,
    prompts: tuple[str, ...] = PHOTO,
    source: str,
    licence: str = "not stated by its distributors",
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
        prompts=prompts,
        source=source,
        licence=licence,
        notes=(_COUNTS,),
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
        prompts=tuple(wording("prompts for aircraft")),
        source="arXiv 1306.5151",
        licence="non-commercial research only",
    ),
    _split(
        "caltech101",
        "Caltech101",
        "Caltech 101",
        "split_zhou_Caltech101.json",
        "caltech-101/101_ObjectCategories",
        100,
        (4128, 1649, 2465),
        prompts=tuple(wording("prompts for objects")),
        source="Fei-Fei, Fergus, Perona 2004",
        licence="CC BY 4.0",
    ),
    _split(
        "dtd",
        "DTD",
        "Describable Textures",
        "split_zhou_DescribableTextures.json",
        "dtd/images",
        47,
        (2820, 1128, 1692),
        prompts=tuple(wording("prompts for textures")),
        source="arXiv 1311.3618",
        licence="for research",
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
        prompts=tuple(wording("prompts for land")),
        source="arXiv 1709.00029",
        licence="MIT",
    ),
    _split(
        "flowers",
        "Flowers",
        "Oxford Flowers 102",
        "split_zhou_OxfordFlowers.json",
        "oxford_flowers/jpg",
        102,
        (4093, 1633, 2463),
        prompts=("a photo of a {}, a type of flower.",),
        source="Nilsback, Zisserman 2008",
    ),
    _split(
        "food101",
        "Food",
        "Food-101",
        "split_zhou_Food101.json",
        "food-101/images",
        101,
        (50500, 20200, 30300),
        prompts=("a photo of a {}, a type of food.",),
        source="Bossard, Guillaumin, Van Gool 2014",
        licence="the pictures are Foodspotting's users': research only",
    ),
    _split(
        "oxford-pets",
        "OxfordPets",
        "Oxford-IIIT Pet",
        "split_zhou_OxfordPets.json",
        "oxford_pets/images",
        37,
        (2944, 736, 3669),
        prompts=("a photo of a {}, a type of pet.",),
        source="Parkhi, Vedaldi, Zisserman, Jawahar 2012",
        licence="CC BY-SA 4.0",
    ),
    _split(
        "stanford-cars",
        "StanfordCars",
        "Stanford Cars",
        "split_zhou_StanfordCars.json",
        "stanford_cars",
        196,
        (6509, 1635, 8041),
        prompts=tuple(wording("prompts for cars")),
        source="Krause, Stark, Deng, Fei-Fei 2013",
        licence="non-commercial research only",
    ),
    _split(
        "sun397",
        "SUN397",
        "SUN397",
        "split_zhou_SUN397.json",
        "sun397/SUN397",
        397,
        (15880, 3970, 19850),
        prompts=tuple(wording("prompts for scenes")),
        source="Xiao, Hays, Ehinger, Oliva, Torralba 2010",
    ),
    _split(
        "ucf101",
        "UCF101",
        "UCF101's middle frames",
        "split_zhou_UCF101.json",
        "ucf101/UCF-101-midframes",
        101,
        (7639, 1898, 3783),
        prompts=("a photo of a person doing {}.",),
        source="arXiv 1212.0402",
    ),
):
    DATASETS.add(_dataset)
