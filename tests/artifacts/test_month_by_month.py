"""A stream that is trained month by month gives, bit for bit, what it gives when it is trained at once."""

from __future__ import annotations

import pytest
from months import different, trained_at_once, trained_by_month
from quick import QUICK, one_each

from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.training import recipes

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SIZES = {"n_train": 32, "n_test": 4, "n_held_out": 4, "n_reference": 32}
MONTHS = {"growing": 4, "tasks": 3, "domains": 3, "pairs": 3}


def growing(months: int) -> VLMBenchmark:
    """Five new classes every month, up to 20: across the width of a vector."""
    whole = picturebook.class_incremental(n_experiences=4, **SIZES)
    return first_of(whole, months)


def tasks(months: int) -> VLMBenchmark:
    return picturebook.mtil_like(order=["digits", "night", "toys"][:months], **SIZES)


def domains(months: int) -> VLMBenchmark:
    return picturebook.domain_incremental(domains=("sketch", "night", "mosaic")[:months], **SIZES)


def pairs(months: int) -> VLMBenchmark:
    return picturebook.pairs(domains=("sketch", "night", "clean")[:months], **SIZES)


def first_of(whole: VLMBenchmark, months: int) -> VLMBenchmark:
    """The first tasks of a class-labelled stream, with a label space of their own."""
    space = whole.label_space
    members = space.tasks[:months]
    names = tuple(space.class_names[c] for c in range(1 + max(map(max, members))))
    templates = space.templates if len(space.templates) == 1 else space.templates[:months]
    return VLMBenchmark(
        whole.name,
        "classes",
        [e.dataset for e in whole.train_stream][:months],
        [e.dataset for e in whole.test_stream][:months],
        label_space=type(space)(names, members, space.visible, templates, space.task_names[:months]),
        task_names=whole.task_names[:months],
        reference=whole.reference,
        generator=whole.generator,
    )


STREAMS = {"growing": growing, "tasks": tasks, "domains": domains, "pairs": pairs}
CASES = [
    (name, stream)
    for name in recipes.list()
    for stream in STREAMS
    if ("pairs" if stream == "pairs" else "classes") in recipes.get(name).kinds
]


STANDING = (*QUICK, "moe-adapters", "icarl", "tic-cumulative", "ewc-clip", "magmax")
"""One of each kind of state: what all recipes keep goes through files in ``test_recipes_killed`` as well."""


@pytest.mark.parametrize(("name", "stream"), one_each(CASES, STANDING))
def test_month_by_month_is_at_once(name, stream):
    _, at_once = trained_at_once(STREAMS[stream], MONTHS[stream], name)
    _, by_month = trained_by_month(STREAMS[stream], MONTHS[stream], name)
    assert different(at_once, by_month) == []


def longer(months: int) -> VLMBenchmark:
    """Tasks of which the last one's names are longer than all before."""
    whole = tasks(MONTHS["tasks"])
    space = whole.label_space
    last = set(space.tasks[-1])
    names = tuple(f"two small {name} with" if c in last else name for c, name in enumerate(space.class_names))
    whole.label_space = type(space)(names, space.tasks, space.visible, space.templates, space.task_names)
    return first_of(whole, months)


@pytest.mark.parametrize("name", one_each([("fine-tune",), ("replay",), ("lwf",), ("coop",), ("moe-adapters",)]))
def test_longer_names_of_a_month_to_come_change_nothing_before_it(name):
    _, at_once = trained_at_once(longer, 3, name)
    _, by_month = trained_by_month(longer, 3, name)
    assert different(at_once, by_month) == []
