"""Cross-modal regularization (CREG)."""

ORDER = ("distillation", "similarity", "penalties", "subspaces", "consolidation")
"""Modules in the order in which their recipes are listed; others come after them."""
