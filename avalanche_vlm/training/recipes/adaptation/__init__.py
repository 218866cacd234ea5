"""Parameter-efficient adaptation (PEA)."""

ORDER = ("lora", "adapters", "prompts", "query_prompts", "analytic", "trained_heads")
"""Modules in the order in which their recipes are listed; others come after them."""
