"""What is there after many experiences is what is kept, by objects and by bytes: whatever else a task makes is gone."""

from __future__ import annotations

EXPERIENCES = 6
OF_MODULES = (nn.Module, nn.Parameter, torch.UntypedStorage)


def stream(base: VLMBenchmark) -> VLMBenchmark:
    """The tasks of a benchmark again and again, each time with a number of its own."""
    tasks = [base.label_space.tasks[i % len(base.task_names)] for i in range(EXPERIENCES)]
    names = [[base.label_space.class_names[c] for c in task] for task in tasks]
