"""MTIL, X-TAIL and their relatives: a data set a task."""

from __future__ import annotations

from avalanche_vlm.benchmarks.families.multi_domain import MultiDomain
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_ZSCL = (
    "aircraft",
    "caltech101",
    "cifar100",
    "dtd",
    "eurosat",
    "flowers",
    "food101",
    "mnist",
    "oxford-pet",
    "stanford-cars",
    "sun397",
)
_COOP = (
    "aircraft-coop",
    "caltech101-coop",
    "cifar100-diki",
    "dtd-coop",
    "eurosat-coop",
    "flowers-coop",
    "food101-coop",
    "mnist-diki",
    "oxford-pets-coop",
    "stanford-cars-coop",
    "sun397-coop",
)
_ORDER_I = (
    "Aircraft",
    "Caltech101",
    "CIFAR100",
    "DTD",
    "EuroSAT",
    "Flowers",
    "Food",
    "MNIST",
    "OxfordPet",
    "StanfordCars",
    "SUN397",
)
_ORDER_II = (
    "StanfordCars",
    "Food",
    "MNIST",
    "OxfordPet",
    "Flowers",
    "SUN397",
    "Aircraft",
    "Caltech101",
    "DTD",
    "EuroSAT",
    "CIFAR100",
)
_RING = ("Aircraft", "DTD", "EuroSAT", "Flowers", "Food", "OxfordPets", "StanfordCars", "UCF101")

MTIL = MultiDomain(
    name="mtil",
    summary="eleven data sets, one after another, the task known at test time",
    source="arXiv 2303.06628",
    citation="Zheng, Ma, Wang, Qin, Yue, You: Preventing Zero-Shot Transfer Degradation in Continual Learning of "
    "Vision-Language Models, ICCV 2023",
    label_space="task",
    splits={"zscl": _ZSCL, "coop": _COOP},
    orders={"I": _ORDER_I, "II": _ORDER_II},
    notes=(
        "two benchmarks are called MTIL: ZSCL's (splits=zscl, 1,201 classes) and DIKI's (splits=coop, 1,200 classes, "
        "CoOp's splits, the first prompt alone); their figures are not comparable",
    ),
    split_defaults={"coop": {"prompts": "first"}},
    split_notes={
        "zscl": (
            "ZSCL trains with the first prompt of a data set and tests with the mean of all; here both take those that "
            "the option prompts says",
        ),
    },
)
XTAIL = MultiDomain(
    name="xtail",
    summary="ten data sets, one after another, every class name of all of them a candidate",
    source="arXiv 2406.18868",
    citation="Xu, Chen, Nie, Wang, Zhuang, Okumura: Advancing Cross-domain Discriminability in Continual Learning of "
    "Vision-Language Models, NeurIPS 2024",
    label_space="union",
    splits={"coop": tuple(name.removesuffix("-diki") for name in _COOP if name != "cifar100-diki")},
    orders={"published": tuple(name for name in _ORDER_I if name != "CIFAR100")},
    prompts="photo",
    wording={"EuroSAT": "{} satellite location", "MNIST": 'number: "{}"'},
    shots=16,
    notes=(
        "names that two data sets have (lotus, pagoda, pizza, sunflower) are one class here by default; the authors' "
        "code lists 1,100 names, of which the first of two equal ones always wins (equal_names=apart keeps them apart)",
        "which images the authors' code draws depends on its loading order: here they are drawn class by class from "
        "the seed, and their places are in the result",
    ),
)
SND = MultiDomain(
    name="snd-8",
    summary="eight data sets in a ring, begun at any of them, the task known at test time",
    source="arXiv 2403.09296",
    citation="Yu, Huang, Chen, Chang, Lai, Yang, Wang: Select and Distill: Selective Dual-Teacher Knowledge Transfer "
    "for Continual Learning on Vision-Language Models, ECCV 2024",
    label_space="task",
    splits={"coop": tuple(f"{of}-coop" for of in ("aircraft", "dtd", "eurosat", "flowers", "food101", "oxford-pets",
                                                  "stanford-cars", "ucf101"))},
    orders={str(first): _RING[first:] + _RING[:first] for first in range(len(_RING))},
    prompts="first",
    notes=("the prompts of Select and Distill are not verified: those of the data sets are taken",),
)  # fmt: skip

_EIGHT = ("StanfordCars", "MNIST", "EuroSAT", "SVHN", "RESISC45", "SUN397", "DTD", "GTSRB")
VISION = MultiDomain(
    name="vision-8",
    summary="the eight data sets of task vectors, one after another, the task known at test time",
    source="arXiv 2407.06322, 2212.04089",
    citation="Marczak, Twardowski, Trzcinski, Cygert: MagMax: Leveraging Model Merging for Seamless Continual "
    "Learning, ECCV 2024",
    label_space="task",
    splits={
        "folders": ("stanford-cars", "mnist", "eurosat-folders", "svhn", "resisc45", "sun397-folders", "dtd-folders",
                    "gtsrb"),
        "torchvision": ("stanford-cars", "mnist", "eurosat", "svhn", "resisc45", "sun397", "dtd", "gtsrb"),
    },
    orders={"magmax": _EIGHT, "alphabetical": tuple(sorted(_EIGHT, key=str.lower))},
    notes=(
        "MagMax names MNIST's classes 0 to 9, and here they are named as torchvision has them",
        "mammoth calls these data sets seq-8vision; its order is not verified",
    ),
    split_notes={
        "torchvision": ("DTD, EuroSAT and SUN397 are divided as in MTIL: figures are not MagMax's",),
    },
)  # fmt: skip

for _benchmark in (MTIL, XTAIL, SND, VISION):
    BENCHMARKS.add(_benchmark.declared())
