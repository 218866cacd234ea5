"""Classes whose prompts have equal tokens are named before anything is trained."""

from __future__ import annotations

import warnings

import pytest
import torch

from avalanche_vlm.benchmarks import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.label_space import join_tasks
from avalanche_vlm.errors import DataWarning

PLAIN = PromptTemplates("plain", ("{}", "a {}"))


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["Star", "star", "fox"], "'Star' and 'star'"),
        (["猫", "犬", "fox"], "'猫' and '犬'"),
        (["fox", "fox"], "'fox' and 'fox'"),
    ],
)
def test_equal_tokens_are_said_with_the_names(names, alike, random_model):
    with pytest.warns(DataWarning, match=f"the same tokens for the classes {alike}: .* never be told apart") as caught:
        random_model.set_label_space(LabelSpace.from_names(names, PLAIN))
    assert len(caught) == 1 and "--class-names FILE" in str(caught[0].message)
    logits = random_model.eval()(torch.rand(2, 3, 32, 32))
    assert torch.equal(logits[:, 0], logits[:, 1])  # and that is how it is


def test_classes_that_never_compete_may_be_called_alike(random_model):
    tasks = [("a", ["star", "fox"], PLAIN), ("b", ["star", "heart"], PLAIN)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_model.set_label_space(join_tasks(tasks, "task"))
        random_model.set_label_space(join_tasks(tasks, "union"))
        random_model.set_label_space(LabelSpace.from_names(["star", "fox"], PLAIN))
    apart = LabelSpace(("star", "fox", "Star"), ((0, 1), (2,)), "task", (PLAIN,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_model.set_label_space(apart)
    with pytest.warns(DataWarning, match="'star' and 'Star'"):
        random_model.set_label_space(apart.with_visible("seen"))
