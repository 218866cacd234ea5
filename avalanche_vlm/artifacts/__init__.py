"""Saved models: versions in a folder, from which they predict and go on learning elsewhere as they did here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.artifacts.description import Built, Description
    from avalanche_vlm.artifacts.exporting import Exported, export
    from avalanche_vlm.artifacts.layout import current_version, point_to, version_names
    from avalanche_vlm.artifacts.loading import SavedModel, load, open_saved
    from avalanche_vlm.artifacts.saving import save_model
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "Built",
    "Description",
    "Exported",
    "SavedModel",
    "current_version",
    "export",
    "load",
    "open_saved",
    "point_to",
    "save_model",
    "version_names",
]
