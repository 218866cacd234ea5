"""What is kept between tasks, over the stream: modules, bytes, parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from avalanche_vlm.evaluation.tracked import TrackedMetric
from avalanche_vlm.evaluation.views.records import KeptRecord
from avalanche_vlm.memory.state import WORKING, Declared, stored_bytes
from avalanche_vlm.models.modules.site import banks
from avalanche_vlm.training.protocol import Strategy, model_of


class Timeline(TrackedMetric):
    """Before the first experience and after each one: modules in the towers, bytes that plugins keep for the next task,
    parameters. Emits nothing."""

    states: ClassVar[Mapping[str, Declared]] = {"_steps": WORKING}

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[str, list[int]] = {}
        """By number of experiences trained."""

    def before_eval(self, strategy: Strategy) -> None:
        super().before_eval(strategy)
        if self.row == 0:
            self._note(strategy)

    def after_training_exp(self, strategy: Strategy) -> None:
        super().after_training_exp(strategy)
        self._note(strategy)

    def _note(self, strategy: Strategy) -> None:
        model, kept = model_of(strategy), stored_bytes(strategy.plugins)
        modules = {name for of in banks(model.clip).values() for name in of["names"] if name not in of["same"]}
        self._steps[str(self.step)] = [len(modules), kept.ram, kept.disk, sum(p.numel() for p in model.parameters())]

    def as_json(self) -> list[KeptRecord]:
        """Plain JSON types, in the order of the stream; nothing where its beginning was not watched."""
        if "0" not in self._steps:
            return []
        return [
            {"step": int(step), "modules": modules, "ram_bytes": ram, "disk_bytes": disk, "parameters": parameters}
            for step, (modules, ram, disk, parameters) in sorted(self._steps.items(), key=lambda of: int(of[0]))
        ]
