"""Time-incremental benchmarks: the same classes, one year after another."""

from __future__ import annotations

from avalanche_vlm.benchmarks.families.years import Years
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_CLEAR = (
    "Lin, Shi, Pathak, Ramanan: The CLEAR Benchmark: Continual LEArning on Real-World Imagery, NeurIPS 2021 (Datasets "
    "and Benchmarks)"
)

for _benchmark in (
    Years(
        name="clear10",
        summary="ten classes and a class for everything else, one bucket of years after another",
        source="arXiv 2201.06289",
        citation=_CLEAR,
        label_space="union",
        splits={"public": "clear10", "neurips2021": "clear10-neurips2021"},
        notes=("the class for everything else is called BACKGROUND, which says little to a text tower",),
    ),
    Years(
        name="clear100",
        summary="a hundred classes and a class for everything else, one bucket of years after another",
        source="arXiv 2201.06289",
        citation=_CLEAR,
        label_space="union",
        splits={"public": "clear100", "cvpr2022": "clear100-cvpr2022"},
        notes=("the class for everything else is called BACKGROUND, which says little to a text tower",),
    ),
):
    BENCHMARKS.add(_benchmark.declared())
