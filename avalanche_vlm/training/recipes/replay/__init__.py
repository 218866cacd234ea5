"""Multi-modal replay (MMRE): explicit and implicit."""

ORDER = ("exemplars", "features", "generated")
"""Modules in the order in which their recipes are listed; others come after them."""
