"""Prompts that every sample's own query selects or weighs: L2P, DualPrompt and CODA-Prompt on an image tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.modules.query_prompts.coda import CodaPromptPool
    from avalanche_vlm.models.modules.query_prompts.dualprompt import DualPromptPool
    from avalanche_vlm.models.modules.query_prompts.l2p import L2PPool
    from avalanche_vlm.models.modules.query_prompts.path import QueryPromptPath
    from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["CodaPromptPool", "DualPromptPool", "L2PPool", "QueryPromptPath", "QueryPromptPool"]
