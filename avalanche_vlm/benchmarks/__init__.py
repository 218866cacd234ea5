"""Benchmarks: the embedded picturebook and streams from a user's own data.

Names are looked up when they are first used, so that label spaces and containers can be imported without loading
everything else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "picturebook": "avalanche_vlm.benchmarks.picturebook",
    "image_folder_stream": "avalanche_vlm.benchmarks.sources.folder",
    "pairs_stream": "avalanche_vlm.benchmarks.sources.table",
    "table_stream": "avalanche_vlm.benchmarks.sources.table",
    "reference_table": "avalanche_vlm.benchmarks.sources.table",
    "LabelSpace": "avalanche_vlm.benchmarks.label_space",
    "PromptTemplates": "avalanche_vlm.benchmarks.label_space",
    "ImageText": "avalanche_vlm.benchmarks.image_text",
    "ReferencePairs": "avalanche_vlm.benchmarks.scenario",
    "HeldOutSet": "avalanche_vlm.benchmarks.scenario",
    "VLMBenchmark": "avalanche_vlm.benchmarks.scenario",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_WHERE[name])
    return module if name == "picturebook" else getattr(module, name)
