"""Benchmarks: the embedded picturebook, streams from a user's own data, and the registries of both.

``list()`` names the benchmarks, ``describe(name)`` tells what one is, ``create(name, model=...)`` builds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.benchmarks.converted import from_avalanche
    from avalanche_vlm.benchmarks.declaration import Benchmark
    from avalanche_vlm.benchmarks.image_text import ImageText
    from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
    from avalanche_vlm.benchmarks.registry import benchmark_names as list
    from avalanche_vlm.benchmarks.registry import create_benchmark as create
    from avalanche_vlm.benchmarks.registry import describe_benchmark as describe
    from avalanche_vlm.benchmarks.registry import register_benchmark as register
    from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs, VLMBenchmark
    from avalanche_vlm.benchmarks.sources.folder import image_folder_stream
    from avalanche_vlm.benchmarks.sources.registry import Format, read_reference, read_stream, register_format
    from avalanche_vlm.benchmarks.sources.table import pairs_stream, reference_table, table_stream
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "Benchmark",
    "Format",
    "HeldOutSet",
    "ImageText",
    "LabelSpace",
    "PromptTemplates",
    "ReferencePairs",
    "VLMBenchmark",
    "create",
    "describe",
    "from_avalanche",
    "image_folder_stream",
    "list",
    "pairs_stream",
    "picturebook",
    "read_reference",
    "read_stream",
    "reference_table",
    "register",
    "register_format",
    "table_stream",
]
