"""Data sets as torchvision lays them out below one root."""

from __future__ import annotations

from dataclasses import replace

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet, wording
from avalanche_vlm.benchmarks.datasets.facts import about

_SOURCES = "avalanche_vlm.benchmarks.sources"
_EIGHTY = "80 percent of the images train, drawn with seed 42 as ZSCL draws them"
_NO_SPLIT = "no split is published by its distributors"
_HELD_OUT = (
    "20 percent of the training part are set apart, as DIKI does; it draws them with Python's generator, and here they "
    "are drawn with torch's and seed 42, so that they are other images"
)

for _dataset in (
    DataSet(
        "aircraft",
        "Aircraft",
        "FGVC-Aircraft",
        f"{_SOURCES}.annotation_lists:variant_lists",
        {
            "fgvc-aircraft-2013b/data/variants.txt": "the list of the 100 variants",
            "fgvc-aircraft-2013b/data/images_variant_train.txt": "the list of training images",
            "fgvc-aircraft-2013b/data/images_variant_test.txt": "the list of test images",
            "fgvc-aircraft-2013b/data/images": "the folder of all 10,000 images",
        },
        100,
        {"train": 3334, "test": 3333},
        {
            "folder": "fgvc-aircraft-2013b/data",
            "parts": {"train": "images_variant_train.txt", "test": "images_variant_test.txt"},
        },
        **about("aircraft"),
    ),
    DataSet(
        "caltech101",
        "Caltech101",
        "Caltech 101",
        f"{_SOURCES}.class_folders:numbered_images",
        {"caltech101/101_ObjectCategories": "the folder of 102 class folders, BACKGROUND_Google among them"},
        101,
        {"all": 8677},
        {"folder": "caltech101/101_ObjectCategories", "left_out": ("BACKGROUND_Google",)},
        renamed=wording("caltech101"),
        **about("caltech101"),
        notes=(_NO_SPLIT, _EIGHTY),
    ),
    DataSet(
        "cifar100",
        "CIFAR100",
        "CIFAR-100",
        f"{_SOURCES}.arrays:pickled_pictures",
        {
            "cifar-100-python/train": "the file of 50,000 training pictures",
            "cifar-100-python/test": "the file of 10,000 test pictures",
            "cifar-100-python/meta": "the file of class names",
        },
        100,
        {"train": 50000, "test": 10000},
        {
            "folder": "cifar-100-python",
            "parts": {"train": "train", "test": "test"},
            "labels": "fine_labels",
            "names": "fine_label_names",
        },
        prompts=tuple(wording("prompts for small pictures")),
        source="Krizhevsky 2009",
    ),
    DataSet(
        "dtd",
        "DTD",
        "Describable Textures",
        f"{_SOURCES}.annotation_lists:folder_lists",
        {
            "dtd/dtd/labels/train1.txt": "the list of training images of the first partition",
            "dtd/dtd/labels/test1.txt": "the list of test images of the first partition",
            "dtd/dtd/images": "the folder of 47 class folders",
        },
        47,
        {"train": 1880, "test": 1880},
        {"folder": "dtd/dtd", "parts": {"train": "train1.txt", "test": "test1.txt"}},
        **about("dtd"),
    ),
    DataSet(
        "eurosat",
        "EuroSAT",
        "EuroSAT in RGB",
        f"{_SOURCES}.class_folders:class_folders",
        {"eurosat/2750": "the folder of 10 class folders"},
        10,
        {"all": 27000},
        {"parts": {"all": "eurosat/2750"}},
        renamed=wording("land"),
        keys=tuple(wording("land")),
        **about("eurosat"),
        notes=(_NO_SPLIT, _EIGHTY),
    ),
    DataSet(
        "flowers",
        "Flowers",
        "Oxford Flowers 102",
        f"{_SOURCES}.mat_lists:flower_lists",
        {
            "flowers-102/imagelabels.mat": "the list of classes",
            "flowers-102/setid.mat": "the lists of training, validation and test images",
            "flowers-102/jpg": "the folder of 8,189 images",
        },
        102,
        {"train": 1020, "test": 6149},
        {"folder": "flowers-102", "parts": {"train": "trnid", "test": "tstid"}},
        renamed={f"class {number}": name for number, name in enumerate(wording("flowers"), start=1)},
        **about("flowers"),
    ),
    DataSet(
        "food101",
        "Food",
        "Food-101",
        f"{_SOURCES}.annotation_lists:grouped_lists",
        {
            "food-101/meta/train.json": "the list of training images",
            "food-101/meta/test.json": "the list of test images",
            "food-101/images": "the folder of 101 class folders",
        },
        101,
        {"train": 75750, "test": 25250},
        {"folder": "food-101", "parts": {"train": "train.json", "test": "test.json"}},
        **about("food101"),
    ),
    DataSet(
        "mnist",
        "MNIST",
        "MNIST",
        f"{_SOURCES}.arrays:idx_files",
        {"MNIST/raw": "the folder of the four idx files, zipped or not"},
        10,
        {"train": 60000, "test": 10000},
        {
            "folder": "MNIST/raw",
            "parts": {
                "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
                "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
            },
            "names": wording("digits"),
        },
        prompts=('a photo of the number: "{}".',),
        source="LeCun, Cortes, Burges 1998",
        licence="CC BY-SA 3.0",
    ),
    DataSet(
        "oxford-pet",
        "OxfordPet",
        "Oxford-IIIT Pet",
        f"{_SOURCES}.annotation_lists:breed_lists",
        {
            "oxford-iiit-pet/annotations/trainval.txt": "the list of training images",
            "oxford-iiit-pet/annotations/test.txt": "the list of test images",
            "oxford-iiit-pet/images": "the folder of 7,349 images",
        },
        37,
        {"train": 3680, "test": 3669},
        {"folder": "oxford-iiit-pet", "parts": {"train": "trainval.txt", "test": "test.txt"}},
        **about("oxford-pets"),
    ),
    DataSet(
        "stanford-cars",
        "StanfordCars",
        "Stanford Cars",
        f"{_SOURCES}.mat_lists:car_lists",
        {
            "stanford_cars/devkit/cars_meta.mat": "the list of the 196 models",
            "stanford_cars/devkit/cars_train_annos.mat": "the classes of the training images",
            "stanford_cars/cars_test_annos_withlabels.mat": "the classes of the test images",
            "stanford_cars/cars_train": "the folder of 8,144 training images",
            "stanford_cars/cars_test": "the folder of 8,041 test images",
        },
        196,
        {"train": 8144, "test": 8041},
        {
            "folder": "stanford_cars",
            "parts": {
                "train": ("devkit/cars_train_annos.mat", "cars_train"),
                "test": ("cars_test_annos_withlabels.mat", "cars_test"),
            },
        },
        **about("stanford-cars"),
    ),
    DataSet(
        "sun397",
        "SUN397",
        "SUN397",
        f"{_SOURCES}.class_folders:nested_folders",
        {
            "SUN397/ClassName.txt": "the list of the 397 classes",
            "SUN397/a": "the first folder of class folders",
        },
        397,
        {"all": 108754},
        {"folder": "SUN397", "classes": "ClassName.txt"},
        **about("sun397"),
        notes=(
            "its distributors publish ten partitions, which are not taken here",
            _EIGHTY,
            "torchvision lists SUN397 in the order of the file system, so that splits made on it differ from disk to "
            "disk; here the paths are sorted, and ZSCL's split is not claimed",
        ),
    ),
):
    DATASETS.add(_dataset)
    if _dataset.name in ("cifar100", "mnist"):
        DATASETS.add(
            replace(
                _dataset,
                name=f"{_dataset.name}-diki",
                summary=f"{_dataset.summary} with a fifth of its training part set apart",
                sizes={
                    "train": 4 * _dataset.sizes["train"] // 5,
                    "valid": _dataset.sizes["train"] // 5,
                    "test": _dataset.sizes["test"],
                },
                held_out=0.2,
                notes=(_HELD_OUT,),
            )
        )
