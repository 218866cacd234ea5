"""State and weights on disk: whole or not at all, by content, verified when read; nothing that is read is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.storage.durable import staged, written
    from avalanche_vlm.storage.loading import Stored, load_state, state_names
    from avalanche_vlm.storage.locks import Lock
    from avalanche_vlm.storage.saving import save_state
    from avalanche_vlm.storage.tensor_files import read_tensors, write_tensors
    from avalanche_vlm.storage.writer import StateWriter
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "Lock",
    "StateWriter",
    "Stored",
    "load_state",
    "read_tensors",
    "save_state",
    "staged",
    "state_names",
    "write_tensors",
    "written",
]
