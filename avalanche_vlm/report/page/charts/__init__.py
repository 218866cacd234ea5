"""Charts as inline SVG: real text, colours from the page's variables, every figure with the path of its number."""

from avalanche_vlm.report.page.charts.bars import gauge, whisker
from avalanche_vlm.report.page.charts.curves import curve
from avalanche_vlm.report.page.charts.heat import heat
from avalanche_vlm.report.page.charts.scatter import scatter

__all__ = ["curve", "gauge", "heat", "scatter", "whisker"]
