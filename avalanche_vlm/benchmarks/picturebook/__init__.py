"""The embedded world: captioned 32 x 32 pictures, drawn from a seed, and streams of tasks on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.picturebook.streams import (
        class_incremental,
        domain_incremental,
        mtil_like,
        pairs,
        time_incremental,
    )
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["class_incremental", "domain_incremental", "mtil_like", "pairs", "time_incremental"]
