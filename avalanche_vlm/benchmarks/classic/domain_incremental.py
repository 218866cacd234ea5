"""Domain-incremental benchmarks: the same classes, one domain after another."""

from __future__ import annotations

from avalanche_vlm.benchmarks.families.domain_incremental import DomainIncremental
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_SPROMPTS = (
    "Wang, Huang, Hong: S-Prompts Learning with Pre-trained Transformers: An Occam's Razor for Domain Incremental "
    "Learning, NeurIPS 2022"
)
_DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
_HOME = ("Art", "Clipart", "Product", "Real World")
_HARD = ("gaugan", "biggan", "wild", "whichfaceisreal", "san")
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
):
    BENCHMARKS.add(_benchmark.declared())
