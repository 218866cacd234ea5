"""Label spaces and prompt templates: which class names compete, and in which words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from avalanche_vlm.errors import InputError, naming
from avalanche_vlm.storage.documents import EXACT, LONGEST_NAME, Name, NotNegativeInt, fault_of

Visible = Literal["task", "seen", "union"]
"""Which classes compete: those of the sample's own task, those met so far, or all."""

TrainClasses = Literal["current", "seen"]
"""Which classes compete for a batch in training: those of the batch's own tasks, or all that were met so far."""

TrainTemplates = Literal["all", "first"]
"""Which prompts stand for a class in training: those of all its templates, averaged, or that of its first alone."""

StreamKind = Literal["classes", "pairs"]
"""What the samples of a stream are: images with class labels, or images with texts."""


class TemplatesRecord(TypedDict):
    """:class:`PromptTemplates` in JSON types."""

    name: Name
    templates: list[Name]


class SpaceRecord(TypedDict):
    """A :class:`LabelSpace` in JSON types."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    class_names: list[Name]
    tasks: list[list[NotNegativeInt]]
    visible: Visible
    templates: list[TemplatesRecord]
    task_names: list[Name]


@dataclass(frozen=True)
class PromptTemplates:
    """Sentences with a ``{}`` for the class name. Several templates make an ensemble.

    As with ``str.format``, ``{0}`` and one name of the user's, such as ``{label}``, stand for the same; they are
    kept as ``{}``.

    :param name: name of this set in results.
    :param templates: one or more sentences, each with a ``{}``.
    :raises InputError: if a template has no place for the class name, places of two names, or other braces.

    >>> PromptTemplates("photo", ("a photo of a {}", "a {label}, drawn")).fill("cat")
    ('a photo of a cat', 'a cat, drawn')
    """

    name: str
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(_with_plain_braces(text, self.name) for text in self.templates))

    def fill(self, class_name: str) -> tuple[str, ...]:
        """The prompts of one class.

        :param class_name: name of the class.
        :return: one prompt per template.
        """
        return tuple(template.replace("{}", class_name) for template in self.templates)


def _with_plain_braces(template: str, name: str) -> str:
    """A template with ``{}`` where the class name goes, whatever a user of ``str.format`` calls it."""
    said = f"prompt template {template!r} of {name!r}"
    if "{{" in template or "}}" in template:
        raise InputError(f"{said} has doubled braces: a class name goes where {{}} stands, and there are no others")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{said} has a brace that is no {{}} for the class name ({error})") from error
    fields = {field for _, field, _, _ in parts if field is not None}
    if not fields:
        raise InputError(f"{said} has no {{}} for the class name")
    for _, field, form, conversion in parts:
        if field is not None and (form or conversion or not (field in ("", "0") or field.isidentifier())):
            written = f"{field}{'!' + conversion if conversion else ''}{':' + form if form else ''}"
            raise InputError(f"{said} has {{{written}}}, where {{}} stands for the class name")
    if len(fields) > 1:
        listed = " and ".join(f"{{{field}}}" for field in sorted(fields))
        raise InputError(f"{said} has {listed}, but there is one thing to fill in, the class name: write {{}}")
    return "".join(text + ("{}" if field is not None else "") for text, field, _, _ in parts)


def refuse_long(what: str, text: str) -> None:
    """Refuse a name or prompt that no file of this package could keep.

    :param what: what is named, as the sentence says it.
    :param text: its name or prompt.
    :raises InputError: if it has more than 65,536 characters.
    """
    if len(text) > LONGEST_NAME:
        raise InputError(f"{what} has {len(text):,} characters, and a name or prompt has {LONGEST_NAME:,} at most")


PLAIN = PromptTemplates("plain", ("{}",))
PHOTO = PromptTemplates("photo", ("a photo of a {}.",))
"""CLIP's default prompt (arXiv 2103.00020, section 3.1.4)."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a benchmark, the tasks they belong to, and which of them compete at prediction.

    Class ids index ``class_names`` and are the ``y`` of the benchmark's data sets; logits have one column per
    class, and the columns of classes that are not visible are masked.

    ``visible`` is the protocol: ``"task"``, the classes of the sample's own task (the task label says which: MTIL);
    ``"seen"``, the classes of all experiences trained so far (class-incremental); ``"union"``, all classes (X-TAIL).

    :param class_names: names of the classes, in the order of their ids.
    :param tasks: ids of the classes of each task, in the order of the task labels.
    :param visible: which classes compete.
    :param templates: one set of prompts for all classes, or one per task; a class that belongs to several tasks takes
        the first one's.
    :param task_names: names of the tasks; ``task 0``, ``task 1``, ... by default.
    :raises InputError: if a class has no name or belongs to no task, an id does not exist, or the number of templates
        is wrong.
    """

    class_names: tuple[str, ...]
    tasks: tuple[tuple[int, ...], ...]
    visible: Visible = "task"
    templates: tuple[PromptTemplates, ...] = (PLAIN,)
    task_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.visible not in get_args(Visible):
            raise InputError(f"label space must be task, seen or union, not {self.visible!r}")
        for number, name in enumerate(self.class_names):
            if not str(name).strip():
                raise InputError(f"the class {number} has an empty name: a prompt needs a word for every class")
            refuse_long(f"the name of class {number}", str(name))
        for of in self.templates:
            for template in of.templates:
                refuse_long(f"the template {template[:40]!r}...", template)
        if not self.task_names:
            object.__setattr__(self, "task_names", tuple(f"task {i}" for i in range(len(self.tasks))))
        if len(self.task_names) != len(self.tasks):
            raise InputError(f"{len(self.tasks)} tasks need as many names, got {len(self.task_names)}")
        if len(self.templates) not in (1, len(self.tasks)):
            raise InputError(f"give one template set, or one for each of {len(self.tasks)} tasks")
        used = {c for task in self.tasks for c in task}
        if used != set(range(len(self.class_names))):
            raise InputError(f"tasks must cover the class ids 0 to {len(self.class_names) - 1}, each in one or more")

    @classmethod
    def from_names(
        cls, class_names: Sequence[str], templates: PromptTemplates = PHOTO, visible: Visible = "union"
    ) -> LabelSpace:
        """One task with these classes: what a stock Avalanche benchmark needs to be used with a VLM.

        :param class_names: names of the classes, in the order of their ids.
        :param templates: prompts around the class names.
        :param visible: which classes compete.
        :return: the label space.
        :raises InputError: for one name in the place of a list of names, for none, and for what are no names.
        """
        names = () if isinstance(class_names, (str, bytes)) else tuple(class_names)
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"class_names is a list with the names of all classes, not {class_names!r:.60}")
        return cls(names, (tuple(range(len(names))),), visible, (templates,))

    def __len__(self) -> int:
        return len(self.class_names)

    def prompts(self) -> list[tuple[str, ...]]:
        """The prompts of every class, in id order."""
        groups = zip(self.class_names, self.templates_of_classes(), strict=True)
        return [tuple(template.replace("{}", name) for template in group) for name, group in groups]

    def templates_of_classes(self) -> list[tuple[str, ...]]:
        """The templates that are filled with the name of every class, in id order."""
        first_task = {c: t for t in reversed(range(len(self.tasks))) for c in self.tasks[t]}
        sets = self.templates if len(self.templates) > 1 else self.templates * len(self.tasks)
        return [sets[first_task[c]].templates for c in range(len(self.class_names))]

    def alike(self) -> str | None:
        """The sentence on classes that compete under one name, which no text tells apart; None without such.

        >>> LabelSpace(("crane", "duck", "crane"), ((0, 1), (2,)), "task").alike()
        >>> LabelSpace(("crane", "duck", "crane"), ((0, 1), (2,)), "union").alike()
        "the classes 0 and 2 have one name, 'crane': their prompts are the same, and no text tells them apart"
        """
        for group in self.tasks if self.visible == "task" else (range(len(self)),):
            by_name: dict[str, list[int]] = {}
            for number in group:
                by_name.setdefault(self.class_names[number], []).append(number)
            for name, numbers in by_name.items():
                if len(numbers) > 1:
                    listed = ", ".join(map(str, numbers[:-1]))
                    return (
                        f"the classes {listed} and {numbers[-1]} have one name, {name!r}: their prompts are the same, "
                        "and no text tells them apart"
                    )
        return None

    def with_visible(self, visible: Visible) -> LabelSpace:
        """The same classes under another protocol.

        :param visible: which classes compete.
        :return: a label space that differs in that alone.
        """
        return replace(self, visible=visible)

    def with_task(self, name: str, class_names: Sequence[str], templates: PromptTemplates) -> LabelSpace:
        """These classes and another task's: what there is keeps its ids, and new classes come behind.

        A name that is known is the same class, as in :func:`join_tasks`; under ``"task"`` every task has classes of its
        own.

        :param name: name of the task; one that is taken gets a number behind it.
        :param class_names: names of the task's classes, in the order of their columns.
        :param templates: prompts around the names of its classes.
        :return: a label space of which this one is the beginning.

        >>> space = join_tasks([("may", ["cat", "dog"], PHOTO)], "seen").with_task("june", ["dog", "emu"], PHOTO)
        >>> space.class_names, space.tasks
        (('cat', 'dog', 'emu'), ((0, 1), (1, 2)))
        """
        ids: dict[tuple[int, str], int] = {}
        for task in () if self.visible == "task" else self.tasks:
            for key, number in zip(_keys([self.class_names[c] for c in task]), task, strict=True):
                ids.setdefault(key, number)
        keys = _keys(class_names)
        known, new = len(self), [key for key in keys if key not in ids]
        ids |= {key: known + number for number, key in enumerate(new)}
        sets = self.templates if len(self.templates) > 1 else self.templates * len(self.tasks)
        sets = (*sets, templates)
        taken = set(self.task_names)
        title = next(t for t in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if t not in taken)
        return LabelSpace(
            (*self.class_names, *(of for _, of in new)),
            (*self.tasks, tuple(ids[key] for key in keys)),
            self.visible,
            sets[:1] if len(set(sets)) == 1 else sets,
            (*self.task_names, title),
        )

    def begins(self, other: LabelSpace) -> bool:
        """Whether another label space is this one with tasks, and perhaps classes, behind: every class keeps its id,
        its name and its prompts.

        :param other: the label space that may go on.
        """
        here, there = len(self), len(self.tasks)
        return (
            self.visible == other.visible
            and self.class_names == other.class_names[:here]
            and self.tasks == other.tasks[:there]
            and self.templates_of_classes() == other.templates_of_classes()[:here]
        )

    def as_json(self) -> dict[str, Any]:
        """All of it in plain JSON types, for :meth:`from_json`."""
        return {
            "class_names": list(self.class_names),
            "tasks": [list(task) for task in self.tasks],
            "visible": self.visible,
            "templates": [{"name": t.name, "templates": list(t.templates)} for t in self.templates],
            "task_names": list(self.task_names),
        }

    @classmethod
    def from_json(cls, values: Any, where: object = "a label space") -> LabelSpace:
        """The label space that :meth:`as_json` has written down.

        :param values: what a file may hold in its place.
        :param where: where it is from, for the error.
        :raises InputError: if it is none.

        >>> space = LabelSpace.from_names(["cat", "dog"])
        >>> LabelSpace.from_json(space.as_json()) == space
        True
        """
        try:
            found = TypeAdapter(SpaceRecord).validate_python(values)
        except ValidationError as error:
            raise InputError(f"{where} is damaged: {fault_of(error)}") from error
        with naming(f"{where} is damaged"):
            return cls(
                tuple(found["class_names"]),
                tuple(tuple(task) for task in found["tasks"]),
                found["visible"],
                tuple(PromptTemplates(t["name"], tuple(t["templates"])) for t in found["templates"]),
                tuple(found["task_names"]),
            )

    def describe(self) -> dict[str, Any]:
        """What a result must say of its label space: plain JSON types."""
        return {
            "label_space": self.visible,
            "classes": len(self),
            "templates": {t.name: list(t.templates) for t in self.templates},
        }


def _keys(names: Sequence[str]) -> list[tuple[int, str]]:
    """What the classes of one task are known by in another: within a task every name is a class of its own."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((seen[name], name))
        seen[name] += 1
    return keys


def join_tasks(tasks: Iterable[tuple[str, Sequence[str], PromptTemplates]], visible: Visible = "task") -> LabelSpace:
    """A label space of several tasks in which every task brings classes of its own.

    Equal names in two tasks are two classes under ``"task"``, and one class otherwise (X-TAIL's union, where they
    could not be told apart). Within a task every name is a class of its own, equal names included.

    :param tasks: name, class names and templates of each task.
    :param visible: which classes compete.
    :return: the label space of all tasks together.
    """
    tasks = list(tasks)
    ids: dict[tuple[int, int, str], int] = {}
    members = []
    for t, (_, names, _) in enumerate(tasks):
        keys = [(t if visible == "task" else 0, *key) for key in _keys(names)]
        members.append(tuple(ids.setdefault(key, len(ids)) for key in keys))
    templates = tuple(t for _, _, t in tasks)
    return LabelSpace(
        tuple(name for _, _, name in ids),
        tuple(members),
        visible,
        templates[:1] if len(set(templates)) == 1 else templates,
        tuple(name for name, _, _ in tasks),
    )
