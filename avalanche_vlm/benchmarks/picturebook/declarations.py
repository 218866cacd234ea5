"""The streams of the embedded world, declared as benchmarks."""

from __future__ import annotations

from typing import get_args

from avalanche_vlm.benchmarks.declaration import Benchmark
from avalanche_vlm.benchmarks.label_space import Visible

_STREAMS = "avalanche_vlm.benchmarks.picturebook.streams"
_DRAWN = "drawn from a seed; no download"
QUICK = {"n_train": 160, "n_test": 100, "n_held_out": 300, "n_reference": 400}
"""Sizes of a first look: fine-tuning forgets, and every cure helps where it should, by far more than seeds differ, in
three tenths of the steps."""

TASKS = Benchmark(
    "picturebook",
    "classes",
    "eight tasks, each an attribute in a shifted style, real handwritten digits among them",
    f"{_STREAMS}:mtil_like",
    _DRAWN + ", with scikit-learn's digits; in the manner of MTIL (arXiv 2303.06628)",
    get_args(Visible),
    family="picturebook",
    quick=QUICK,
)
CLASSES = Benchmark(
    "picturebook-classes",
    "classes",
    "twenty objects as graffiti, some new ones per experience",
    f"{_STREAMS}:class_incremental",
    _DRAWN,
    ("seen", "task", "union"),
    None,
    family="picturebook",
    quick=QUICK,
)
STYLES = Benchmark(
    "picturebook-domains",
    "classes",
    "the same ten shapes in one style after another",
    f"{_STREAMS}:domain_incremental",
    _DRAWN,
    order="domains",
    family="picturebook",
    quick=QUICK,
)
CAPTIONS = Benchmark(
    "picturebook-pairs",
    "pairs",
    "fully captioned scenes in one style after another, scored by retrieval within each task",
    f"{_STREAMS}:pairs",
    _DRAWN,
    order="domains",
    family="picturebook",
    quick=QUICK,
)
MONTHS = Benchmark(
    "picturebook-time",
    "classes",
    "the same ten shapes month after month, while one style slowly gives way to the next",
    f"{_STREAMS}:time_incremental",
    _DRAWN + "; in the manner of TiC-CLIP (arXiv 2310.16226)",
    order=None,
    family="picturebook",
    quick=QUICK,
)
PICTUREBOOK = (TASKS, CLASSES, STYLES, CAPTIONS, MONTHS)
"""All streams, in the order in which they are listed."""
