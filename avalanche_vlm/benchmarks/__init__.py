"""Benchmarks: the embedded picturebook and streams from a user's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.benchmarks.image_text import ImageText
    from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
    from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs, VLMBenchmark
    from avalanche_vlm.benchmarks.sources.folder import image_folder_stream
    from avalanche_vlm.benchmarks.sources.table import pairs_stream, reference_table, table_stream
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "HeldOutSet",
    "ImageText",
    "LabelSpace",
    "PromptTemplates",
    "ReferencePairs",
    "VLMBenchmark",
    "image_folder_stream",
    "pairs_stream",
    "picturebook",
    "reference_table",
    "table_stream",
]
