"""How a folder of class-labelled pictures is laid out: which folders are splits, tasks and classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from avalanche_vlm.benchmarks.sources.class_names import BESIDE
from avalanche_vlm.benchmarks.sources.images import EXTENSIONS
from avalanche_vlm.benchmarks.sources.ordering import natural
from avalanche_vlm.benchmarks.sources.splits import Split, are_splits, is_plain, split_of
from avalanche_vlm.errors import InputError

Layout = Literal["auto", "class", "task/class"]
"""What the folders beneath the splits are: classes of one task, tasks with classes, or whichever the depth says."""

_BETWEEN = "\0"

ONE_TASK = "all"
"""Name of the task of data that have no tasks."""


class FolderFiles(NamedTuple):
    """The files in a folder.

    :param joined: names of the pictures in natural order, with a character between them that no name has.
    :param others: names of the other files, in natural order.
    """

    joined: str
    others: Sequence[str]

    @property
    def names(self) -> list[str]:
        """Names of the pictures."""
        return self.joined.split(_BETWEEN) if self.joined else []

    @property
    def first(self) -> str:
        """Name of the first picture; empty where there is none."""
        return self.joined.partition(_BETWEEN)[0]

    @property
    def number(self) -> int:
        """How many pictures there are."""
        return self.joined.count(_BETWEEN) + 1 if self.joined else 0


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures of a folder, and what it and the folders above say of them. There may be millions: none has an
    object of its own.

    :param folder: path of the folder, with the separator behind it.
    :param held: the pictures in it.
    :param task: name of their task's folder.
    :param label: name of their class folder.
    :param split: ``""`` where no folder says which.
    """

    folder: str
    held: FolderFiles
    task: str
    label: str
    split: Split | Literal[""]


@dataclass
class Survey:
    """What a folder holds.

    :param found: the folders with pictures in natural order of splits, tasks, classes and names (2 before 10).
    :param tasks: the tasks in natural order.
    :param empty: task and folder of each class folder without a picture.
    :param notes: a sentence for each kind of file that is left out.
    """

    found: list[Found] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    empty: list[tuple[str, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Place = tuple[str, ...]
"""Names of the folders from the root down."""


def survey_folder(root: Path, layout: Layout = "auto") -> Survey:
    """Tell splits, tasks and classes apart.

    Folders ``train``, ``val`` and ``test`` (also ``training``, ``valid``, ``validation``, ``dev``, ``testing``, in any
    case, and as in ``train2017``, ``test_set`` or ``training_images``) that lie side by side are splits, at the top, in
    every task or in every class. What remains above a picture is ``class`` or ``task/class``; folders further down, in
    a class, belong to it, as in torchvision's ``ImageFolder``.

    :param root: folder that holds the data.
    :param layout: ``"class"`` or ``"task/class"`` where the depth does not tell or tells wrongly.
    :return: the pictures, and what was left out.
    :raises InputError: in one sentence, if splits stand beside other folders or pictures lie at several depths.
    """
    if layout not in get_args(Layout):
        raise InputError(f"layout is auto, class or task/class, not {layout!r}")
    folders: dict[Place, FolderFiles] = dict(_walk(root, (), ()))
    others = [name for held in folders.values() for name in held.others]
    inhabited = {parts[:n] for parts, held in folders.items() if held.joined for n in range(len(parts) + 1)}
    below: dict[Place, list[str]] = {}
    for parts in folders:
        if parts in inhabited and parts:
            below.setdefault(parts[:-1], []).append(parts[-1])
    splits: dict[Place, bool] = {}
    placed = {parts: _strip_split(root, parts, below, splits) for parts in folders}
    depths = {parts: len(rest) for parts, (_, rest) in placed.items() if folders[parts].joined}
    trained = min((depth for parts, depth in depths.items() if placed[parts][0] == "train"), default=0)
    depths = {parts: n for parts, n in depths.items() if placed[parts][0] not in ("test", "valid") or n >= trained}
    classes_at = _depth_of_classes(root, layout, depths, folders)
    survey = Survey(notes=_notes(others) + _taken_for_splits(below))
    if not classes_at:
        return survey
    split_on_top = are_splits(below.get((), []))
    unlabelled: dict[str, Path] = {}
    for parts, (split, rest) in placed.items():
        if split_on_top and not split:
            continue  # annotations and the like
        task = rest[0] if classes_at == 2 and rest else ONE_TASK
        if len(rest) == classes_at and parts not in inhabited and not split_of(parts[-1]):
            survey.empty.append((task, root.joinpath(*parts)))
        if len(rest) < classes_at:
            if number := folders[parts].number:
                if split in ("test", "valid"):
                    unlabelled.setdefault(task if rest else "", root.joinpath(*parts))
                survey.notes.append(
                    f"{_count(number, 'image')} of no class {_is(number)} left out, such as "
                    f"{root.joinpath(*parts, folders[parts].first)}"
                )
            if classes_at == 2 and len(rest) == 1 and parts not in inhabited and not any(folders[parts]):
                survey.empty.append((task, root.joinpath(*parts)))
            continue
        above, label = os.path.join(root.joinpath(*parts), ""), rest[classes_at - 1]
        if folders[parts].joined:
            survey.found.append(Found(above, folders[parts], task, label, split))
    _test_on_train(survey, unlabelled)
    survey.tasks = sorted({found.task for found in survey.found}, key=natural)
    if classes_at == 2 and not split_on_top:
        divided = {found.task for found in survey.found if found.split}
        survey.notes += _taken_for_tasks([task for task in survey.tasks if task not in divided])
    return survey


def _test_on_train(survey: Survey, unlabelled: dict[str, Path]) -> None:
    """Leave the split of training pictures to chance in tasks whose test pictures lie in no class, as in contests."""
    for task in dict.fromkeys(found.task for found in survey.found):
        folder = unlabelled.get(task) or unlabelled.get("")
        if folder and {found.split for found in survey.found if found.task == task} == {"train"}:
            survey.found = [replace(found, split="") if found.task == task else found for found in survey.found]
            survey.notes.append(
                f"the pictures in {folder} lie in no class folder, so nothing says what they show: task {task!r} is "
                "tested on a random share of its training pictures"
            )


def _walk(folder: Path, parts: Place, above: tuple[str, ...]) -> Iterator[tuple[Place, FolderFiles]]:
    """Every folder with its files, hidden ones left out; links are followed, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != ".":
                (folders if _is_folder(entry) else files).append(entry.name)
    files.sort(key=natural)
    pictures = [name for name in files if _suffix(name) in EXTENSIONS]
    others = [name for name in files if _suffix(name) not in EXTENSIONS] if len(pictures) < len(files) else ()
    yield parts, FolderFiles(_BETWEEN.join(pictures), others)
    for name in sorted(folders, key=natural):
        yield from _walk(folder / name, (*parts, name), (*above, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Of links in a circle is_dir raises, where isdir says no.
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _suffix(name: str) -> str:
    """What ``os.path.splitext`` gives of a name that does not begin with a dot, in lower case."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def _splits_among(folder: Path, names: list[str]) -> bool:
    """Whether folders that lie side by side are splits."""
    known = [name for name in names if split_of(name)]
    if are_splits(known) and len(known) < len(names):
        other = next(name for name in names if name not in known)
        raise InputError(
            f"{folder} holds the splits {' and '.join(known)} beside {other!r}: move {other!r} away, or rename the "
            "folders if they are tasks or classes"
        )
    return are_splits(names)


def _strip_split(
    root: Path, parts: Place, below: dict[Place, list[str]], splits: dict[Place, bool]
) -> tuple[Split | Literal[""], Place]:
    """The split that a folder belongs to, and its place without it. Which folders hold splits is asked once of each:
    there may be thousands side by side."""
    for level, name in enumerate(parts[:3]):
        above, split = parts[:level], split_of(name)
        siblings = below.get(above, [])
        if above not in splits:
            splits[above] = _splits_among(root.joinpath(*above), siblings)
        rest = (*above, *parts[level + 1 :])
        if split and splits[above]:
            return split, rest
        if split == "train" and level == 0 and siblings == [name]:
            return "", rest  # nothing to measure on: that is split off as where there are no such folders
    return "", parts


def _depth_of_classes(
    root: Path, layout: Layout, depths: dict[Place, int], folders: dict[Place, FolderFiles]
) -> Literal[0, 1, 2]:
    """How far beneath the root class folders lie, splits not counted; 0 if there are none."""
    shallow = [parts for parts, depth in depths.items() if depth == 1]
    deep = [parts for parts, depth in depths.items() if depth > 1]
    if layout == "class":
        return 1 if shallow or deep else 0
    if shallow and deep:
        stray, further = (root.joinpath(*parts, folders[parts].first) for parts in (shallow[0], deep[0]))
        raise InputError(
            f"{stray} lies directly in a task folder, and {further} in a class folder of one; expected "
            f"task/class/{stray.name} for all, or with layout=class class/{stray.name} and deeper"
        )
    if layout == "task/class" and shallow:
        stray = root.joinpath(*shallow[0], folders[shallow[0]].first)
        raise InputError(f"{stray} lies directly in a task folder; expected {root}/task/class/{stray.name}")
    return 2 if deep else 1 if shallow else 0


def _notes(others: Sequence[str]) -> list[str]:
    """A sentence on files that are no images by their names."""
    left = [name for name in others if name not in DESCRIPTIONS]
    if not left:
        return []
    kinds = Counter(_suffix(name) or "no suffix" for name in left)
    listed = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
    return [f"{_count(len(left), 'file')} that {_is(len(left))} no image by name {_is(len(left))} left out ({listed})"]


def _taken_for_splits(below: dict[Place, list[str]]) -> list[str]:
    """A sentence on folders that are splits by names like ``val2017``."""
    names = [name for siblings in below.values() if are_splits(siblings) for name in siblings if not is_plain(name)]
    each = [f"{name!r} for the split {split_of(name)}" for name in dict.fromkeys(names)]
    return [f"folders are taken for splits by their names: {', '.join(each)}"] if each else []


def _taken_for_tasks(names: Sequence[str]) -> list[str]:
    """A sentence on folders that are tasks although they are called like splits, which there are none of without one to
    train on."""
    named = [repr(name) for name in names if split_of(name)]
    if not named:
        return []
    are, each = ("a task", "is") if len(named) == 1 else ("tasks", "are")
    return [
        f"{' and '.join(named)} {each} taken for {are}, split at random: splits are a folder 'train' and one or more "
        "folders to measure on, and no others beside them"
    ]


DESCRIPTIONS = (BESIDE,)
"""Names of files that are read for what they say of the pictures."""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _is(n: int) -> str:
    return "is" if n == 1 else "are"
