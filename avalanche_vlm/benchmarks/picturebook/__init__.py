"""The embedded world: captioned 32 x 32 pictures, drawn from a seed, and streams of tasks on them."""

from avalanche_vlm.benchmarks.picturebook.streams import (
    class_incremental,
    domain_incremental,
    mtil_like,
    pairs,
    time_incremental,
)

__all__ = ["class_incremental", "domain_incremental", "mtil_like", "pairs", "time_incremental"]
