"""Which classes compete, in training and at test, under each label space."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, join_tasks
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.models.competing import ALL_CLASSES, CompetingClasses

TASKS = [("pets", ["cat", "dog"], PHOTO), ("cars", ["bus", "van", "cab"], PHOTO), ("farm", ["cow", "dog"], PHOTO)]
"""Under ``"seen"`` and ``"union"`` the class dog belongs to two tasks, which have the ids 0 1, 2 3 4 and 5 1."""


def experience(number: int, classes: list[int], labels: tuple[int, ...] = (), **more):
    return SimpleNamespace(
        current_experience=number, classes_in_this_experience=classes, task_labels=list(labels or (number,)), **more
    )


def after(visible: str, *met: int, in_training: str = "current") -> CompetingClasses:
    """The classes after training the experiences with these numbers."""
    space = join_tasks(TASKS, visible)
    competing = CompetingClasses(space, in_training).train()
    for number in met:
        competing.meet(experience(number, list(space.tasks[number])))
    return competing


def ids(mask: torch.Tensor) -> list:
    return [row.nonzero()[:, 0].tolist() for row in mask] if mask.ndim > 1 else mask.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("visible", ["seen", "union"])
def test_in_training_the_classes_of_the_batchs_own_tasks_compete_once_they_were_met(visible):
    competing = after(visible, 0, 1)
    assert ids(competing.of(1)) == [2, 3, 4]
    assert ids(competing.of(torch.tensor([1, 1]))) == [2, 3, 4]
    assert ids(competing.of(torch.tensor([1, 0]))) == [0, 1, 2, 3, 4]  # with replay those of its samples besides
    assert ids(competing.of(ALL_CLASSES)) == [0, 1, 2, 3, 4]
    seen = after(visible, 0, 1, in_training="seen")
    assert ids(seen.of(1)) == ids(seen.of(ALL_CLASSES)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("in_training", ["current", "seen"])
def test_in_training_under_task_each_sample_has_its_own_tasks_classes(in_training):
    competing = after("task", 0, 1, in_training=in_training)
    assert ids(competing.of(torch.tensor([1, 0]))) == [[2, 3, 4], [0, 1]]
    assert ids(competing.of(torch.tensor([0, 0]))) == [0, 1]
    assert ids(competing.of(ALL_CLASSES)) == [0, 1, 2, 3, 4]  # never the third task's


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_classes_of_a_task_that_arrive_later_do_not_compete_before(visible):
    competing = CompetingClasses(LabelSpace.from_names(["a", "b", "c", "d"], PHOTO, visible)).train()
    competing.meet(experience(0, [0, 2], labels=(0,)))
    assert ids(competing.of(0)) == ids(competing.of(ALL_CLASSES)) == [0, 2]
    competing.meet(experience(1, [1], labels=(0,)))
    assert ids(competing.of(torch.zeros(3, dtype=torch.long))) == [0, 1, 2]


@pytest.mark.parametrize("visible", ["seen", "union"])
def test_a_stock_benchmark_may_have_more_task_labels_than_its_label_space_tasks(visible):
    competing = CompetingClasses(LabelSpace.from_names(["a", "b", "c", "d"], PHOTO, visible)).train()
    competing.meet(experience(0, [0, 1]))
    competing.meet(experience(1, [2]))
    assert ids(competing.of(1)) == [2] and ids(competing.of(torch.tensor([0, 1]))) == [0, 1, 2]
    at_test = ids(competing.eval().of(torch.tensor([0, 1, 5])))
    assert at_test == ([0, 1, 2, 3] if visible == "union" else [0, 1, 2])


def test_an_experience_with_several_task_labels_brings_to_each_its_own_samples_classes():
    data = SimpleNamespace(targets=[0, 1, 2, 1], targets_task_labels=[0, 0, 1, 1])
    competing = CompetingClasses(join_tasks(TASKS, "union")).train()
    competing.meet(experience(0, [0, 1, 2], labels=(0, 1), dataset=data))
    assert ids(competing.of(0)) == [0, 1] and ids(competing.of(1)) == [1, 2]


def test_a_training_loop_without_experiences_has_what_the_label_space_says():
    union, task = (CompetingClasses(join_tasks(TASKS, visible)).train() for visible in ("union", "task"))
    assert ids(union.of(2)) == [1, 5] and ids(union.of(ALL_CLASSES)) == [0, 1, 2, 3, 4, 5]
    assert ids(task.of(1)) == [2, 3, 4]


def test_at_test_the_label_space_decides():
    labels = torch.tensor([0, 2])
    assert ids(after("task", 0).eval().of(labels)) == [[0, 1], [5, 6]]
    assert ids(after("union", 0).eval().of(labels)) == [0, 1, 2, 3, 4, 5]
    seen = after("seen", 0, 1).eval()
    assert ids(seen.of(0)) == ids(seen.of(torch.tensor([1, 0, 1]))) == ids(seen.of(ALL_CLASSES)) == [0, 1, 2, 3, 4]
    # A sample of a task that was never trained has its own classes besides, and no other sample has them.
    assert ids(seen.of(labels)) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


def test_while_nothing_is_trained_seen_has_the_samples_own_task_or_all():
    competing = after("seen").eval()
    assert ids(competing.of(torch.tensor([1, 0]))) == [[2, 3, 4], [0, 1]]
    assert ids(competing.of(ALL_CLASSES)) == [0, 1, 2, 3, 4, 5]


def test_an_evaluation_leaves_nothing_behind():
    competing = after("seen", 0).eval()
    before = ids(competing.of(ALL_CLASSES))
    for number in (0, 1, 2):
        competing.meet(experience(number, list(join_tasks(TASKS, "seen").tasks[number])))
    assert ids(competing.of(ALL_CLASSES)) == before == [0, 1]
    assert competing.get_extra_state()["met"] == [[0, 1], [], []]


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_what_was_met_is_saved_and_goes_on(visible):
    competing = after(visible, 0, 1, in_training="seen")
    competing.meet(experience(5, [0], labels=(5,)))  # a label beyond the label space's tasks
    loaded = CompetingClasses(join_tasks(TASKS, visible))
    loaded.load_state_dict(copy.deepcopy(competing.state_dict()))
    assert loaded.in_training == "seen" and torch.equal(loaded.met, competing.met)
    other = CompetingClasses(LabelSpace.from_names(["a"]))
    other.load_state_dict(competing.state_dict())
    assert not other.met.any()


def test_classes_to_come_under_a_label_that_was_trained_are_warned_of_once():
    """A raw stream of Avalanche's, which has the label 0 throughout."""
    competing = CompetingClasses(LabelSpace.from_names(["a", "b", "c", "d"], PHOTO, "seen"))
    first, second = experience(0, [0, 1], labels=(0,)), experience(1, [2, 3], labels=(0,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        competing.eval().meet(second)  # nothing is trained: its own classes compete
        competing.train().meet(first)
        competing.eval().meet(first)
        after("seen", 0).eval().meet(experience(1, [2, 3, 4]))  # its own label
    assert ids(competing.of(0)) == [0, 1]
    with pytest.warns(DataWarning, match=r"experience 1 has .* accuracy is 0 .* benchmarks.from_avalanche") as told:
        competing.meet(second), competing.meet(second)
    assert len(told) == 1


def test_what_the_label_space_does_not_have_is_named():
    competing = after("task", 0)
    with pytest.raises(InputError, match="no task label 7: the label space has 3 tasks"):
        competing.of(torch.tensor([0, 7]))
    with pytest.raises(InputError, match="experience 3 has class id 40, but the label space names only 7"):
        competing.meet(experience(3, [1, 40]))
    with pytest.raises(InputError, match="no task label -1"):
        after("union", 0).of(torch.tensor([0, -1]))


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([[0], [1]]), r"int64 \[2, 1\]"),  # a column would spread every sample over the batch
        (torch.tensor([0.0, 1.0]), r"float32 \[2\]"),
        (1.5, r"float32 \[\]"),
        ([True, False], r"bool \[2\]"),
        ("first", "'first'"),
        (["first", "second"], "'first', 'second'"),
    ],
)
def test_what_are_no_task_labels_is_refused(visible, labels, said):
    with pytest.raises(InputError, match=f"task labels are one whole number, or one for each sample, not .*{said}"):
        after(visible, 0).of(labels)


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_asking_for_a_task_label_leaves_nothing_behind(visible):
    space = LabelSpace.from_names(["a", "b", "c", "d"], PHOTO, visible)
    competing = CompetingClasses(space).train()
    competing.meet(experience(0, [0, 1]))
    before = copy.deepcopy(competing.get_extra_state())
    for mode in (True, False):
        competing.train(mode)
        for label in (0,) if visible == "task" else (0, 9):
            competing.of(label), competing.of(torch.tensor([0, label]))
    assert competing.get_extra_state() == before


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_batch_of_no_samples_has_the_classes_of_one_without_labels(visible, mode):
    competing = after(visible, 0).train(mode)
    assert torch.equal(competing.of(torch.zeros(0, dtype=torch.long)), competing.of(ALL_CLASSES))


def test_a_state_of_classes_without_task_labels_is_understood():
    competing = CompetingClasses(join_tasks(TASKS, "seen"))
    competing.set_extra_state({"classes": 6, "seen": [0, 1, 2], "evaluated": [5, 1]})
    assert competing.get_extra_state()["met"] == [[0, 1], [2], []]
    flat = CompetingClasses(LabelSpace.from_names(["a", "b", "c"], PHOTO, "seen"), "seen")
    flat.set_extra_state({"classes": 3, "seen": [0, 2], "evaluated": []})
    assert flat.get_extra_state()["met"] == [[0, 2]] and flat.in_training == "seen"
    with pytest.raises(InputError, match="does not say which classes training has met"):
        flat.set_extra_state({"classes": 3})


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_what_was_met_stays_met_when_the_label_space_grows(visible):
    space = join_tasks([("a", ["cat", "dog"], PHOTO), ("b", ["emu"], PHOTO)], visible)
    model = mini().set_label_space(space)
    model.competing.in_training = "seen"
    model.competing.met[0, 0] = True
    model.grow_label_space(space.with_task("c", ["fox", "gnu"], PHOTO))
    assert model.competing.met.tolist() == [[True, False, False, False, False], *2 * [[False] * 5]]
    assert model.competing.in_training == "seen" and len(model.text_head.prompts) == 5
    assert model.competing.in_task.shape == (3, 5)
    with pytest.raises(InputError, match="a label space grows by tasks and classes behind those that there are"):
        model.grow_label_space(space)
