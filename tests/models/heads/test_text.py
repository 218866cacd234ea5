"""The zero-shot head: what is encoded once stays at hand, here and in a process that goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, PromptTemplates, join_tasks
from avalanche_vlm.models.heads.text import BLOCK

SPACE = LabelSpace.from_names(["star", "heart", "ring"], PHOTO, "union")
ALL = torch.arange(3)


@pytest.fixture
def frozen():
    return mini().freeze("text").set_label_space(SPACE)


def counted(model) -> list[int]:
    """The number of texts of every pass through the text tower from now on."""
    seen: list[int] = []
    model.clip.token_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_features_that_are_handed_on_are_not_encoded_again(frozen):
    other = copy.deepcopy(frozen).set_label_space(SPACE)
    assert frozen.text_head.at_hand(frozen) is None
    wanted = frozen.prompt_features(ALL)
    passes = counted(other)
    other.text_head.take(other, *frozen.text_head.at_hand(frozen))
    assert torch.equal(other.prompt_features(ALL), wanted) and not passes
    with torch.no_grad():
        other.clip.text_projection.mul_(1.5)
    assert other.text_head.at_hand(other) is None
    other.prompt_features(ALL)
    assert passes == [3]


def test_they_are_those_of_the_precision_that_they_were_encoded_in(frozen):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frozen.prompt_features(ALL)
    precision, features, classes = frozen.text_head.at_hand(frozen)
    assert precision == "torch.bfloat16"
    frozen.text_head.take(frozen, precision, features, classes)
    passes = counted(frozen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frozen.prompt_features(ALL), features) and not passes
    frozen.prompt_features(ALL)
    assert passes == [3]


def test_of_a_tower_that_trains_nothing_is_handed_on(frozen):
    frozen.prompt_features(ALL)
    frozen.unfreeze("text")
    assert frozen.text_head.at_hand(frozen) is None


_SHORT = "star heart ring square circle triangle cross moon cloud leaf tree house fish bird cat dog boat"
WORDS = [*_SHORT.split(), "long sports car"]
"""The last one so that a space grows by longer prompts."""
TWO = PromptTemplates("two", ("a {}", "one {}"))


def tasks_of_two(n: int) -> LabelSpace:
    """Tasks of two classes each, with two prompts."""
    return join_tasks([(f"task {t}", WORDS[2 * t : 2 * t + 2], TWO) for t in range(n)], "task")


def test_only_blocks_of_what_is_asked_for_are_encoded_and_each_once():
    model = mini().freeze("text").set_label_space(tasks_of_two(9))
    passes = counted(model)
    model.prompt_features(torch.tensor([6]))
    assert passes == [4]  # the two classes of its task
    model.prompt_features(torch.tensor([1, 6, 7]))
    assert passes == [4, 4]
    model.prompt_features(torch.arange(18))
    assert passes == [4] * 9
    model.prompt_features(torch.arange(18))
    assert passes == [4] * 9


def test_a_task_of_many_classes_is_encoded_in_blocks():
    space = LabelSpace.from_names([f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:13]], PHOTO, "union")
    model = mini().freeze("text").set_label_space(space)
    passes = counted(model)
    model.prompt_features(torch.tensor([0, 39]))
    assert len(space) == 40 and passes == [BLOCK, 8]


def positions(model) -> list[int]:
    """How many positions are computed of the texts of the first task."""
    seen: list[int] = []
    hook = model.clip.token_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    model.prompt_features(torch.arange(2))
    hook.remove()
    return seen


@pytest.mark.parametrize("order", [[[17], [0, 3], list(range(18))], [list(range(18))], [[5, 6, 7], [0, 16]]])
def test_a_class_has_the_same_bits_whoever_asks_and_in_a_space_that_has_grown(order):
    ways = mini().freeze("text").set_label_space(tasks_of_two(9))
    grown = copy.deepcopy(ways).set_label_space(tasks_of_two(2))
    grown.prompt_features(torch.arange(4))
    grown.grow_label_space(tasks_of_two(9))
    assert positions(grown) == positions(grown.set_label_space(tasks_of_two(2)))
    grown.grow_label_space(tasks_of_two(9))
    wanted = copy.deepcopy(ways).set_label_space(tasks_of_two(9)).prompt_features(torch.arange(18))
    for model in (ways, grown):
        for classes in map(torch.tensor, order):
            assert torch.equal(model.prompt_features(classes), wanted[classes])
    torch.testing.assert_close(wanted, ways.text_head.encode(ways, torch.arange(18)), atol=1e-6, rtol=0)


def test_a_part_that_is_handed_on_is_completed_with_the_same_bits():
    model = mini().freeze("text").set_label_space(tasks_of_two(4))
    other = copy.deepcopy(model).set_label_space(tasks_of_two(4))
    model.prompt_features(torch.tensor([2, 3]))
    passes = counted(other)
    other.text_head.take(other, *model.text_head.at_hand(model))
    wanted = model.prompt_features(torch.arange(8))
    assert torch.equal(other.prompt_features(torch.arange(8)), wanted) and passes == [4] * 3
    other.text_head.take(other, None, wanted)  # as checkpoints of before have it: all classes, without their ids
    assert torch.equal(other.prompt_features(torch.tensor([5])), wanted[[5]]) and passes == [4] * 3


def test_features_of_modules_are_kept_up_to_a_limit_and_the_longest_unasked_go_first(monkeypatch):
    model = mini().freeze("text").set_label_space(tasks_of_two(2))
    head, passes = model.text_head, counted(model)
    of_module = 4 * model.width * 4
    head.limit = 2 * of_module

    def ask(module: str) -> int:
        """How many passes it takes under a module."""
        before = len(passes)
        monkeypatch.setattr("avalanche_vlm.models.heads.text._module", lambda model: module)
        head.features(model, torch.arange(4))
        assert head.kept_bytes <= head.limit
        return len(passes) - before

    assert [ask(m) for m in "abab"] == [2, 2, 0, 0]
    assert [ask(m) for m in "cbac"] == [2, 0, 2, 2]
    head.limit = 0
    monkeypatch.setattr("avalanche_vlm.models.heads.text._module", lambda model: "c")
    head.features(model, torch.arange(4))
    assert head.kept_bytes == of_module and list(head._cached) == [("c", False)]
    assert model.head_for(tasks_of_two(2)).limit == 0


def test_a_change_of_the_weights_throws_away_every_block():
    model = mini().freeze("text").set_label_space(tasks_of_two(2))
    passes = counted(model)
    before = model.prompt_features(torch.arange(4)).clone()
    with torch.no_grad():
        model.clip.positional_embedding[1].mul_(1.5)
    after = model.prompt_features(torch.tensor([0]))
    assert passes == [4, 4, 4] and not torch.equal(after, before[:1])
    assert model.text_head.at_hand(model)[2].tolist() == [0, 1]
