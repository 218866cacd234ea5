"""Vision-language models in the Avalanche continual-learning ecosystem.

Importing this package is light: torch and avalanche load when a name that needs them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm import benchmarks
    from avalanche_vlm.artifacts.loading import load
    from avalanche_vlm.evaluation.survey import survey_metrics
    from avalanche_vlm.models.factory import create_vlm
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training import recipes
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__version__ = "0.1.0"
__all__ = ["__version__", "benchmarks", "create_vlm", "load", "recipes", "run_experiment", "survey_metrics"]
