"""Everything that is watched of a run for its report."""

from __future__ import annotations

from avalanche.evaluation import PluginMetric

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.evaluation.views.changed import ChangedAnswers
from avalanche_vlm.evaluation.views.feature_map import FeatureMap
from avalanche_vlm.evaluation.views.records import ViewsRecord
from avalanche_vlm.evaluation.views.timeline import Timeline


class Views:
    """What a report shows of a run besides its scores.

    :param benchmark: the stream that is trained.
    :param examples: most test pictures that are kept of those whose answer changed, with their captions; 0 keeps no
        sample of the user's.
    :param chosen: tasks that are evaluated: ``"all"``, ``"seen"`` or ``"last"``.
    :param every: number of experiences from one evaluation to the next.
    """

    def __init__(self, benchmark: VLMBenchmark, examples: int, chosen: str = "all", every: int = 1) -> None:
        self._changed = ChangedAnswers(benchmark, examples)
        self._map = FeatureMap(benchmark, chosen, every)
        self._timeline = Timeline()

    @property
    def metrics(self) -> list[PluginMetric]:
        """What watches, for the evaluator: it adds no figure to a result."""
        return [self._changed, self._map, self._timeline]

    def as_json(self) -> ViewsRecord:
        """What was seen, in plain JSON types."""
        return {
            "changed": self._changed.changed(),
            "examples": self._changed.examples(),
            "confusions": self._changed.confusions(),
            "map": self._map.as_json(),
            "timeline": self._timeline.as_json(),
        }
