"""Advice: short pilots on the user's own stream, a recommendation within constraints, and a plan in stages."""

from avalanche_vlm.studies.advice.advise import advise
from avalanche_vlm.studies.advice.constraints import Constraints

__all__ = ["Constraints", "advise"]
