"""Label spaces and prompts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalanche_vlm.benchmarks.label_space import PHOTO, PLAIN, LabelSpace, PromptTemplates, join_tasks
from avalanche_vlm.benchmarks.scenario import HeldOutSet, VLMBenchmark
from avalanche_vlm.errors import InputError

OTHER = PromptTemplates("other", ("a {}", "the {}"))
words = st.text(min_size=1, max_size=5).filter(str.strip)
names = st.lists(words, min_size=1, max_size=6, unique=True)


@given(st.lists(names, min_size=1, max_size=5), st.sampled_from(["task", "seen", "union"]))
def test_joined_tasks_keep_their_names_in_order(tasks, visible):
    space = join_tasks([(f"t{i}", task, PLAIN) for i, task in enumerate(tasks)], visible)
    assert [[space.class_names[c] for c in classes] for classes in space.tasks] == tasks
    if visible == "task":
        assert len(space) == sum(map(len, tasks))
    else:
        assert len(set(space.class_names)) == len(space) == len({name for task in tasks for name in task})


def test_prompts_follow_the_first_task_of_a_class():
    space = join_tasks([("a", ["cat", "dog"], PLAIN), ("b", ["dog", "cow"], OTHER)], "union")
    assert space.prompts() == [("cat",), ("dog",), ("a cow", "the cow")]
    apart = join_tasks([("a", ["dog"], PLAIN), ("b", ["dog"], OTHER)], "task")
    assert apart.prompts() == [("dog",), ("a dog", "the dog")]


def test_braces_in_class_names_are_left_alone():
    assert PromptTemplates("x", ("a {}.",)).fill("{0}") == ("a {0}.",)


def test_a_result_can_say_what_its_label_space_was():
    described = LabelSpace.from_names(["cat", "dog"]).describe()
    assert described == {"label_space": "union", "classes": 2, "templates": {"photo": ["a photo of a {}."]}}
    assert LabelSpace.from_names(["cat"]).with_visible("seen").visible == "seen"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"visible": "all"}, "task, seen or union, not 'all'"),
        ({"tasks": ((0,),)}, "must cover the class ids 0 to 1"),
        ({"tasks": ((0, 1, 2),)}, "must cover the class ids"),
        ({"templates": (PLAIN, PLAIN, PLAIN)}, "one for each of 1 tasks"),
        ({"task_names": ("a", "b")}, "1 tasks need as many names, got 2"),
    ],
)
def test_bad_label_spaces(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        LabelSpace(**{"class_names": ("a", "b"), "tasks": ((0, 1),), **arguments})


def test_a_template_needs_a_place_for_the_name():
    with pytest.raises(InputError, match=r"'a photo' of 'bad' has no \{\}"):
        PromptTemplates("bad", ("a photo",))


@pytest.mark.parametrize("template", ["a {} here", "a {0} here", "a {label} here", "a {class_name} here"])
def test_templates_are_written_as_for_format(template):
    filled = PromptTemplates("mine", (template,))
    assert filled.fill("cat") == ("a cat here",) and filled.templates == ("a {} here",)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{label} {}", "has {} and {label}, but there is one thing to fill in"),
        ("a photo", "has no {} for the class name"),
        ("{1}", "has {1}, where {} stands"),
        ("{:>8}", "has {:>8}, where {} stands"),
        ("{!r}", "has {!r}, where {} stands"),
        ("{a.b}", "has {a.b}, where {} stands"),
        ("{{}}", "doubled braces"),
        ("{{x}} {}", "doubled braces"),
        ("{} and {", "has a brace that is no {}"),
        ("{} and }", "has a brace that is no {}"),
    ],
)
def test_other_braces_of_a_template_are_refused_by_name(template, said):
    with pytest.raises(InputError, match=re.escape(said)):
        PromptTemplates("mine", (template,))


@pytest.mark.parametrize("name", ["", "  "])
def test_a_class_without_a_name_is_refused(name):
    with pytest.raises(InputError, match="the class 1 has an empty name"):
        LabelSpace(("a", name), ((0, 1),))


@pytest.mark.parametrize("names", ["cats", b"cats", [], [1, 2], [None], [["cat", "dog"]], {0: "cat"}])
def test_one_name_is_no_list_of_names_nor_are_numbers(names):
    with pytest.raises(InputError, match="class_names is a list with the names of all classes, not "):
        LabelSpace.from_names(names)


def test_names_are_taken_from_whatever_gives_them_one_by_one():
    assert LabelSpace.from_names(name for name in ("cat", "dog")).tasks == ((0, 1),)


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_a_label_space_that_grows_task_by_task_is_that_of_all_tasks(visible):
    other = PromptTemplates("other", ("see a {}",))
    tasks = [("a", ["x", "y", "x"], PHOTO), ("b", ["y", "z"], PHOTO), ("c", ["x", "x", "x"], other)]
    grown = join_tasks(tasks[:1], visible)
    for name, names, templates in tasks[1:]:
        before, grown = grown, grown.with_task(name, names, templates)
        assert before.begins(grown) and not grown.begins(before)
    assert grown == join_tasks(tasks, visible)


def test_a_task_whose_name_is_taken_gets_a_number():
    space = join_tasks([("a", ["x"], PHOTO)]).with_task("a", ["x"], PHOTO).with_task("a", ["x"], PHOTO)
    assert space.task_names == ("a", "a (2)", "a (3)")


@pytest.mark.parametrize("change", [{"visible": "seen"}, {"class_names": ("dog", "cat", "emu")},
                                    {"templates": (PromptTemplates("other", ("{}",)),)}])  # fmt: skip
def test_another_label_space_is_none_that_goes_on(change):
    space = join_tasks([("a", ["cat", "dog"], PHOTO)])
    grown = space.with_task("b", ["emu"], PHOTO)
    assert space.begins(grown) and not space.begins(replace(grown, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": [0.5]},
        {"tasks": 1},
        {"class_names": "ab"},
        {"class_names": [1, 2]},
        {"templates": [1]},
        {"templates": [{"name": "a"}]},
        {"task_names": [[]]},
        {"tasks": [["0"]]},
        {"visible": {}},
    ],
)
def test_what_is_stored_as_a_label_space_and_is_none_is_refused(change):
    values = LabelSpace.from_names(["a", "b"]).as_json()
    assert LabelSpace.from_json(values).class_names == ("a", "b")
    with pytest.raises(InputError):
        LabelSpace.from_json({**values, **change})
    with pytest.raises(InputError):
        LabelSpace.from_json({name: value for name, value in values.items() if name not in change})


def test_a_name_or_prompt_that_no_file_could_keep_is_refused_where_it_is_read(tiny_benchmark):
    long = "n" * ((1 << 16) + 1)
    LabelSpace.from_names(["a", long[1:]])
    with pytest.raises(
        InputError, match="the name of class 1 has 65,537 characters, and a name or prompt has 65,536 at"
    ):
        LabelSpace.from_names(["a", long])
    with pytest.raises(InputError, match=r"the template 'n+'\.\.\. has 65,539 characters"):
        LabelSpace.from_names(["a"], PromptTemplates("long", (long + "{}",)))
    sets = [experience.dataset for experience in tiny_benchmark.train_stream]
    for told, more in (
        ("the name of task 1", {"task_names": ["a", long]}),
        ("the name of a held-out set", {"task_names": ["a", "b"], "held_out": [HeldOutSet(long, sets[0])]}),
    ):
        with pytest.raises(InputError, match=f"{told} has 65,537 characters"):
            VLMBenchmark("mine", "classes", sets, sets, label_space=tiny_benchmark.label_space, **more)
