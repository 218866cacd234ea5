"""Heads in closed form: fitted experience by experience without a gradient, equal to a fit on all data at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.heads.analytic.base import Estimator
    from avalanche_vlm.models.heads.analytic.gate import AnalyticHead
    from avalanche_vlm.models.heads.analytic.gaussian import NearestClassMean
    from avalanche_vlm.models.heads.analytic.kernel import KernelRidge
    from avalanche_vlm.models.heads.analytic.ridge import RandomProjectionRidge, RecursiveRidge
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "AnalyticHead",
    "Estimator",
    "KernelRidge",
    "NearestClassMean",
    "RandomProjectionRidge",
    "RecursiveRidge",
]
