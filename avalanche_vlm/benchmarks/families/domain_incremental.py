"""Benchmarks that bring the same classes in one domain after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from avalanche_vlm.benchmarks.families.multi_domain import MultiDomain
from avalanche_vlm.benchmarks.options import BenchmarkOption


@dataclass(frozen=True, kw_only=True)
class DomainIncremental(MultiDomain):
    """A benchmark whose tasks are domains with the same classes: each domain is a data set, and classes of one name are
    one class, whichever classes compete."""

    family: ClassVar[str] = "domain-incremental"
    same_classes: ClassVar[bool] = True

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """Order, prompts and shots."""
        return tuple(option for option in super().own_options() if option.name != "equal_names")
