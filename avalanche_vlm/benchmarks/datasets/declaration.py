"""What is known of a published data set before it is read: where its files lie, how many there are, what is called how.

This module is light: what reads the files is imported when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm._registry import Registry, resolve
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.sources.captioned import CaptionedSet
    from avalanche_vlm.benchmarks.sources.labelled import LabelledSet
    from avalanche_vlm.benchmarks.sources.problems import Problems

PHOTO = ("a photo of a {}.",)
"""CLIP's default prompt (arXiv 2103.00020, section 3.1.4)."""


TOGETHER = "all parts"
"""What ``DataSet.sizes`` calls all parts together."""


@cache
def wording(name: str) -> Any:
    """A list of names or of prompts that is kept beside the declarations.

    :param name: name of the list in ``words.json``.
    """
    return json.loads(files(__package__).joinpath("words.json").read_text(encoding="utf-8"))[name]


@dataclass(frozen=True)
class DataFiles:
    """What is known of a published data set of any kind.

    :param name: the data set's name, as users write it.
    :param title: what it is called in results, and as a task.
    :param summary: what it is, in a phrase.
    :param read: the function that reads it, or where it is: ``"package.module:function"``. It is called with the folder
        that holds all data sets, and with the further arguments that the declaration names.
    :param needs: what must lie in the folder: a path, or several with ``or`` between them of which one is enough, and
        what it should hold.
    :param source: paper that it is from.
    :param licence: what its distributors say of its use.
    :param notes: what a reader of results should know, a sentence each.
    """

    name: str
    title: str
    summary: str
    read: str
    needs: Mapping[str, str]
    source: str = field(default="", kw_only=True)
    licence: str = field(default="not stated by its distributors", kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def missing(self, root: Path) -> list[str]:
        """What is not there of what must lie in a folder.

        :param root: folder that holds the data sets.
        """
        return [path for path in self.needs if not any((root / of).exists() for of in path.split(" or "))]

    def expected(self) -> dict[str, Any]:
        """How many there are of what, as published: plain JSON types."""
        raise NotImplementedError


@dataclass(frozen=True)
class DataSet(DataFiles):
    """The declaration of a class-labelled data set in one layout, of which :class:`DataFiles` has the first parameters.

    :param classes: number of classes.
    :param sizes: number of images of each part (``train``, ``valid``, ``test``, or ``all`` where it is for the
        benchmark to split), or :data:`TOGETHER` where the number of all of them alone is known.
    :param reading: further arguments of the function that reads it.
    :param renamed: names by what the files call classes: folders, synsets, or ``class 3`` for the third of classes that
        have numbers alone. By their places classes would have each other's names where one is missing.
    :param keys: what the files call all of its classes, where that is published; empty where it is not.
    :param held_out: share of the training images that is set apart, as part ``valid``, and neither trains nor tests, in
        [0, 1).
    :param prompts: sentences with ``{}`` for the class name, the first one first.
    """

    classes: int
    sizes: Mapping[str, int]
    reading: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    held_out: float = 0
    prompts: tuple[str, ...] = PHOTO

    def expected(self) -> dict[str, Any]:
        """The numbers of classes, and of images by part."""
        return {"classes": self.classes, "images": dict(self.sizes)}

    def at(self, old: str, new: str) -> DataSet:
        """The same data set in other files of the same layout, such as those of another run.

        :param old: what occurs in paths of this declaration.
        :param new: what stands in its place.
        """

        def other(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: other(of) for name, of in value.items()}
            return value.replace(old, new) if isinstance(value, str) else value

        needs = {path.replace(old, new): what for path, what in self.needs.items()}
        return replace(self, needs=needs, reading=other(self.reading))

    def load(self, root: Path) -> LabelledSet:
        """Read which images there are, and of which classes; no image is opened.

        :param root: folder that holds the data sets.
        :return: images by part, with class ids and the names of the classes.
        :raises InputError: in one sentence, for a file that is missing or is not what it should be.
        """
        refuse_missing([self], root)
        found: LabelledSet = resolve(self.read)(root, **self.reading)
        parts = dict(found.parts)
        if self.held_out:
            from avalanche_vlm.benchmarks.sources.dividing import seeded_split

            whole = parts["train"]
            train, valid = seeded_split(len(whole), 1 - self.held_out)
            parts.update(train=whole.at(sorted(train)), valid=whole.at(sorted(valid)))
        return replace(found, names=[self.renamed.get(name, name) for name in found.names], parts=parts)


@dataclass(frozen=True)
class PairSet(DataFiles):
    """The declaration of images with captions, of which :class:`DataFiles` has the first parameters.

    :param sizes: number of images of each part (``train``, ``valid``, ``test``, or ``all`` where it is for the
        benchmark to split), as far as it is published.
    :param captions: number of captions of each part, as far as it is published.
    :param reading: further arguments of the function that reads it, which gets a ``Problems`` besides.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    captions: Mapping[str, int] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)

    def expected(self) -> dict[str, Any]:
        """The numbers of images and of captions by part."""
        return {"images": dict(self.sizes), "captions": dict(self.captions)}

    def load(self, root: Path, problems: Problems) -> CaptionedSet:
        """Read which images there are, and their captions; no image is opened.

        :param root: folder that holds the data sets.
        :param problems: takes captions that cannot be used.
        :return: images with captions by part.
        :raises InputError: in one sentence, for a file that is missing or is not what it should be.
        """
        refuse_missing([self], root)
        found: CaptionedSet = resolve(self.read)(root, problems, **self.reading)
        return found


DATASETS: Registry[DataSet] = Registry(
    "data set", DataSet, "avalanche_vlm.datasets", "avalanche_vlm.benchmarks.datasets"
)
PAIR_SETS: Registry[PairSet] = Registry(
    "set of pairs", PairSet, "avalanche_vlm.pair_sets", "avalanche_vlm.benchmarks.datasets"
)


def refuse_missing(sets: Iterable[DataFiles], root: Path) -> None:
    """Refuse a folder in which something is not there.

    :param sets: data sets that must lie in the folder.
    :param root: folder that holds the data sets.
    :raises InputError: in one sentence that names the first thing that is missing and what it should hold.
    """
    wanted = list(sets)
    if not root.is_dir():
        tops = dict.fromkeys(Path(path).parts[0] for of in wanted for path in of.needs)
        raise InputError(f"there is no folder at {root}: it should hold {_and(list(tops))}")
    missing = [(of, path) for of in wanted for path in of.missing(root)]
    if not missing:
        return
    first, path = missing[0]
    others = list(dict.fromkeys(of.title for of, _ in missing if of is not first))
    more = f"; {_and(others)} {'is' if len(others) == 1 else 'are'} not complete there either" if others else ""
    raise InputError(f"{root} has no {path}: it should be {first.needs[path]} ({first.summary}){more}")


def _and(words: list[str]) -> str:
    """Words in a list.

    >>> _and(["a"]), _and(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
