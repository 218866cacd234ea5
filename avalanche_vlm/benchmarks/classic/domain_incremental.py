"""Domain-incremental benchmarks: the same classes, one domain after another."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import wording
from avalanche_vlm.benchmarks.datasets.domains import STYLES
from avalanche_vlm.benchmarks.families.domain_incremental import DomainIncremental
from avalanche_vlm.benchmarks.families.sessions import Sessions
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_SPROMPTS = (
    "Wang, Huang, Hong: S-Prompts Learning with Pre-trained Transformers: An Occam's Razor for Domain Incremental "
    "Learning, NeurIPS 2022"
)
_DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
_HOME = ("Art", "Clipart", "Product", "Real World")
_HARD = ("gaugan", "biggan", "wild", "whichfaceisreal", "san")
_TRAINED = (
    "tattoo",
    "sketch",
    "graphic",
    "painting",
    "art",
    "origami",
    "sculpture",
    "graffiti",
    "cartoon",
    "misc",
    "toy",
    "embroidery",
    "videogame",
    "sticker",
    "deviantart",
)
"""The order in which MagMax's code trains the styles, by the numbers that it has beside its list of them."""
_SECOND = ("gaugan", "biggan", "cyclegan", "imle", "deepfake", "crn", "wild")

for _benchmark in (
    DomainIncremental(
        name="domainnet",
        summary="the 345 classes of DomainNet in six domains",
        source="arXiv 2207.12819",
        citation=_SPROMPTS,
        label_space="union",
        splits={"cleaned": tuple(f"domainnet-{domain}" for domain in _DOMAINNET)},
        orders={
            "s-prompts": _DOMAINNET,
            "ranpac": ("real", "quickdraw", "painting", "sketch", "infograph", "clipart"),
        },
        notes=("409,832 images train and 176,743 test; the numbers of single domains are not checked",),
    ),
    DomainIncremental(
        name="office-home",
        summary="the classes of Office-Home in four domains",
        source="arXiv 1706.07522",
        label_space="union",
        splits={"seeded": tuple(f"office-home-{domain.split()[0].lower()}" for domain in _HOME)},
        orders={"alphabetical": _HOME},
        notes=(
            "Office-Home has no official split: 80 percent train, drawn with seed 42 as ZSCL draws its splits; that it "
            "has 65 classes is not verified",
        ),
    ),
    DomainIncremental(
        name="cddb",
        summary="real and generated pictures, one generator after another",
        source="arXiv 2205.05467",
        citation=_SPROMPTS,
        label_space="union",
        splits={"official": tuple(f"cddb-{generator}" for generator in dict.fromkeys(_HARD + _SECOND))},
        orders={"hard": _HARD, "second": _SECOND},
        notes=("the prompts are ours: those of S-Prompts are not verified",),
    ),
    Sessions(
        name="core50",
        summary="50 objects in eight batches of new surroundings, tested in three others",
        source="arXiv 1705.03550",
        citation="Lomonaco, Maltoni: CORe50: a New Dataset and Benchmark for Continuous Object Recognition, CoRL 2017",
        label_space="union",
        dataset="core50",
        categories=tuple(wording("categories of CORe50")),
        notes=(
            "there is one test set for all batches: each task has every eighth image of it, so that the mean over "
            "tasks is the accuracy on all of it",
            "objects are named by their kind and a number, which says little to a text tower: classes=categories tells "
            "the ten kinds apart",
            "Avalanche reads the same lists, and calls this scenario ni",
        ),
    ),
    DomainIncremental(
        name="imagenet-r-styles",
        summary="the 200 classes of ImageNet-R in fifteen styles",
        source="arXiv 2407.06322",
        citation="Marczak, Twardowski, Trzcinski, Cygert: MagMax: Leveraging Model Merging for Seamless Continual "
        "Learning, ECCV 2024",
        label_space="union",
        splits={
            "folders": tuple(f"imagenet-r-{style}-folders" for style in STYLES),
            "coda": tuple(f"imagenet-r-{style}-coda" for style in STYLES),
        },
        orders={"magmax": _TRAINED, "listed": tuple(STYLES)},
        notes=(
            "MagMax divides the images 80/20 without a seed: its test set cannot be rebuilt (splits=folders reads "
            "folders of your own, splits=coda divides CODA-Prompt's lists)",
            "not every class has images in every style",
        ),
    ),
):
    BENCHMARKS.add(_benchmark.declared())
