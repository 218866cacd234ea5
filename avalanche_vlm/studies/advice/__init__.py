"""Advice: short pilots on the user's own stream, a recommendation within constraints, and a plan in stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.studies.advice.constraints import Constraints
    from avalanche_vlm.studies.advice.session import advise
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["Constraints", "advise"]
