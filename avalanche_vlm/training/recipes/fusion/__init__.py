"""Model fusion: fine-tune freely, mend the weights afterwards."""

ORDER = ("merging", "adapter")
"""Modules in the order in which their recipes are listed; others come after them."""
