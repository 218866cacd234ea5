"""Time-incremental benchmarks: the same classes, or pictures of the web with their captions, one year after another."""

from __future__ import annotations

from avalanche_vlm.benchmarks.families.dated_pairs import DatedPairs
from avalanche_vlm.benchmarks.families.years import Years
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_CLEAR = (
    "Lin, Shi, Pathak, Ramanan: The CLEAR Benchmark: Continual LEArning on Real-World Imagery, NeurIPS 2021 (Datasets "
    "and Benchmarks)"
)
_TIC = (
    "Garg, Farajtabar, Pouransari, Vemulapalli, Mehta, Tuzel, Shankar, Faghri: TiC-CLIP: Continual Training of CLIP "
    "Models, ICLR 2024"
)
_DRAWN = (
    "tests on 1 percent of each step, which the authors draw without a seed: their test sets cannot be built again; "
    "this one is drawn by seed and caption, and the result has its places"
)
_OWN = {"own": ("tests on what one's own run of the authors' script put aside, which no other run does",)}

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
    DatedPairs(
        name="tic-datacomp",
        summary="pictures of the web with captions, 2014 to 2016 and then a year at a time to 2022, or month by month",
        source="arXiv 2310.16226",
        citation=_TIC,
        splits={"retrieval": "tic-datacomp", "drawn": "tic-datacomp-drawn"},
        monthly={"retrieval": "tic-datacomp-month", "drawn": "tic-datacomp-month-drawn"},
        notes=(
            "the authors train from scratch, 4,500 iterations of 4,096 pairs a step at the medium scale, 22,500 of "
            "8,192 at the large one, and 20,500 of 90,112 at xlarge",
        ),
        yearly_notes={
            "retrieval": (
                "tests the first step on the retrieval sets of its three years together, and the authors each year by "
                "itself",
            ),
        },
        split_notes={
            "drawn": (
                "tests on 1 percent of each step, drawn by seed and caption, and the result has its places: the "
                "published test sets are the retrieval sets",
            ),
        },
    ),
    DatedPairs(
        name="tic-yfcc",
        summary="pictures of Flickr with titles, descriptions and tags, in four steps of upload years",
        source="arXiv 2310.16226",
        citation=_TIC,
        splits={"drawn": "tic-yfcc", "own": "tic-yfcc-own"},
        split_notes={"drawn": (_DRAWN,), **_OWN},
    ),
    DatedPairs(
        name="tic-redcaps",
        summary="pictures of Reddit with captions, a year at a time from 2017 to 2020",
        source="arXiv 2310.16226",
        citation=_TIC,
        splits={"drawn": "tic-redcaps", "own": "tic-redcaps-own"},
        split_notes={"drawn": (_DRAWN,), **_OWN},
    ),
):
    BENCHMARKS.add(_benchmark.declared())
