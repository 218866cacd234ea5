"""Held-out sets by name or path: what a run measures besides its own tasks, and no task trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_vlm._registry import resolve
from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, PAIR_SETS, DataFiles, refuse_missing
from avalanche_vlm.benchmarks.sources.registry import format_of, read_stream
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import HeldOutSet
    from avalanche_vlm.benchmarks.sources.aside import AsideReading


def aside_names() -> list[str]:
    """The published data sets that can be held out by name: those with captions, then those with classes."""
    return [*PAIR_SETS.names(), *DATASETS.names()]


def published_aside(given: str) -> DataFiles | None:
    """The published data set of a name; None for any other text, which is a path.

    :param given: name or path.
    """
    for known in (PAIR_SETS, DATASETS):
        if given in known.names():
            found: DataFiles = known.get(given)
            return found
    return None


def refuse_no_aside(given: Sequence[str], root: Path | None) -> None:
    """Refuse held-out sets that are not there, as far as that is known before anything is read.

    :param given: names of published data sets, and paths.
    :param root: folder that holds the published ones; None where none was named.
    :raises InputError: in one sentence, for the first.
    """
    for one in given:
        if (declared := published_aside(one)) is not None:
            if root is None:
                raise InputError(f"--held-out {one} is a published data set: name the folder that it lies in with "
                                 "--held-out-root DIR")  # fmt: skip
            refuse_missing([declared], root)
        elif not Path(one).exists():
            names = ", ".join(PAIR_SETS.names())
            raise InputError(
                f"--held-out: there is no file or folder at {one}, nor is that the name of a published data set"
                f"{did_you_mean(one, aside_names())}, such as {names} or imagenet"
            )
        else:
            format_of(Path(one))


def open_aside(given: Sequence[str], root: Path | None, reading: AsideReading) -> list[HeldOutSet]:
    """The held-out sets that names and paths stand for. Of a published data set the test part is measured, of files the
    test part, or all where they say nothing of splits; several tasks are as many sets.

    :param given: names of published data sets (:func:`aside_names`), and paths of folders and tables of any format.
    :param root: folder that holds the published ones; None where none was named.
    :param reading: how they are read.
    :return: sets in the order given; one of files is called by the name of the folder, or by that of the table without
        its suffix.
    :raises InputError: in one sentence, for everything that cannot be used, and for two sets of one name.
    """
    refuse_no_aside(given, root)
    found: list[HeldOutSet] = []
    for one in given:
        declared = published_aside(one)
        if declared is not None and root is not None:
            found.append(_published(declared, root, reading))
        else:
            found += _own(Path(one), reading)
    for number, of in enumerate(found):
        if any(of.name == other.name for other in found[:number]):
            raise InputError(f"two held-out sets are called {of.name!r}: rename one")
    return found


def _own(path: Path, reading: AsideReading) -> list[HeldOutSet]:
    whole = path.resolve()
    name = (whole.name if whole.is_dir() else whole.name.partition(".")[0]) or "all"
    form = format_of(path)
    if form.held_out is None:
        from avalanche_vlm.benchmarks.scenario import HeldOutSet

        stream = read_stream(path, model=reading.model)
        named = zip(stream.task_names, stream.test_stream, strict=True)
        several = len(stream.task_names) > 1
        return [
            HeldOutSet(f"{name} {task}" if several else name, experience.dataset.eval(), stream.label_space)
            for task, experience in named
        ]
    read: Callable[..., list[HeldOutSet]] = resolve(form.held_out) if isinstance(form.held_out, str) else form.held_out
    return read(path, name, reading)


def _published(declared: DataFiles, root: Path, reading: AsideReading) -> HeldOutSet:
    from avalanche_vlm.benchmarks.datasets.declaration import DataSet, PairSet
    from avalanche_vlm.benchmarks.label_space import PromptTemplates
    from avalanche_vlm.benchmarks.sources.aside import class_aside, pairs_aside
    from avalanche_vlm.benchmarks.sources.checking import left_out
    from avalanche_vlm.benchmarks.sources.dividing import test_images
    from avalanche_vlm.benchmarks.sources.images import ImageFiles
    from avalanche_vlm.benchmarks.sources.labelled import raw_images

    problems = reading.problems
    problems.notes += [f"held-out set {declared.name}: {note}" for note in declared.notes]

    how = problems, reading.check, reading.check_workers, f"held-out set {declared.name}: "
    if isinstance(declared, PairSet):
        rows = declared.load(root, problems).tested()
        wrong = left_out(rows.images, root, *how)
        rows = rows.at(row for row, path in enumerate(rows.images) if path not in wrong)
        return pairs_aside(declared.name, ImageFiles(rows.images), rows.captions, reading)
    assert isinstance(declared, DataSet)
    read = declared.load(root)
    test = test_images(read)
    if files := test.path_texts:
        bad = left_out(files, root, *how)
        test = test.at([row for row, path in enumerate(files) if path not in bad])
    prompts = PromptTemplates("published", declared.prompts)
    return class_aside(declared.name, raw_images(test), test.labels.tolist(), read.names, prompts, reading)
