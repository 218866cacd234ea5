"""What is kept between tasks, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
    from avalanche_vlm.memory.base import Memory
    from avalanche_vlm.memory.exemplars import ExemplarMemory
    from avalanche_vlm.memory.latents import LatentMemory
    from avalanche_vlm.memory.registry import list_memories, memory_class, register_memory
    from avalanche_vlm.memory.state import Stateful, stored_bytes
    from avalanche_vlm.memory.statistics import FeatureMemory
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "ExemplarMemory",
    "FeatureMemory",
    "LatentMemory",
    "Memory",
    "Stateful",
    "StoredBytes",
    "list_memories",
    "memory_class",
    "register_memory",
    "stored_bytes",
    "tensor_bytes",
]
