"""``--held-out``: what is measured besides a stream's own tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.benchmarks.aside import open_aside
from avalanche_vlm.commands.requests import StreamRequest
from avalanche_vlm.commands.requests.shared import CHECKS
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.models import VLM


def set_aside(stream: StreamRequest, benchmark: VLMBenchmark, model: VLM) -> None:
    """Add what is held out to the held-out sets of a benchmark, whose protocol says so.

    :param stream: what was asked for.
    :param benchmark: the stream that was read, which gets the sets.
    :param model: the model whose evaluation transform and tokenizer read the samples.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    from avalanche_vlm.benchmarks.context import note_cut_captions
    from avalanche_vlm.benchmarks.sources.aside import AsideReading
    from avalanche_vlm.benchmarks.sources.problems import Problems

    problems = Problems(stream.on_error, benchmark.data.passed_over)
    checks: dict[str, Any] = {option: stream.options[option] for option in CHECKS if option in stream.options}
    root = None if stream.held_out_root is None else Path(stream.held_out_root).expanduser()
    found = open_aside(stream.held_out, root, AsideReading(model, problems, **checks))
    for own in benchmark.held_out:
        if any(of.name == own.name for of in found):
            raise InputError(f"--held-out: the stream has a held-out set called {own.name!r} itself: rename one")
    benchmark.held_out = (*benchmark.held_out, *found)
    benchmark.protocol |= {"held_out": [of.name for of in found], "held_out_paths": list(stream.held_out)}
    benchmark.data.skipped += [f"held out: {sentence}" for sentence in problems.skipped]
    benchmark.data.notes += problems.notes
    note_cut_captions(benchmark, model.tokenizer)
