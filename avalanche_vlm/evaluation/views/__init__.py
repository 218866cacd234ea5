"""What a report shows of a run besides its scores: answers that changed, a map of features, what was kept when.

It is watched while the stream is evaluated in any case: nothing is drawn at random, encoded again or trained otherwise
for it, and no figure depends on it. What a run keeps of it has a bound that the length of the test sets does not move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.evaluation.views.watching import Views
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["Views"]
