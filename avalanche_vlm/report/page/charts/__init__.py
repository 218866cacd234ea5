"""Charts as inline SVG: real text, colours from the page's variables, every figure with the path of its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.report.page.charts.bars import gauge, whisker
    from avalanche_vlm.report.page.charts.curves import curve
    from avalanche_vlm.report.page.charts.heatmap import heat
    from avalanche_vlm.report.page.charts.planes import trails
    from avalanche_vlm.report.page.charts.points import scatter
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["curve", "gauge", "heat", "scatter", "trails", "whisker"]
