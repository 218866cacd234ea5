"""Prompts that every sample's own query selects or weighs: L2P, DualPrompt and CODA-Prompt on an image tower."""

from avalanche_vlm.models.modules.query_prompts.coda import CodaPromptPool
from avalanche_vlm.models.modules.query_prompts.dualprompt import DualPromptPool
from avalanche_vlm.models.modules.query_prompts.l2p import L2PPool
from avalanche_vlm.models.modules.query_prompts.path import QueryPromptPath, query_width
from avalanche_vlm.models.modules.query_prompts.pool import QueryPromptPool

__all__ = ["CodaPromptPool", "DualPromptPool", "L2PPool", "QueryPromptPath", "QueryPromptPool", "query_width"]
