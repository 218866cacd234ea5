"""What becomes of the samples' losses."""

from __future__ import annotations

from typing import Literal

Reduction = Literal["mean", "none"]
"""Their mean, or each by itself."""
