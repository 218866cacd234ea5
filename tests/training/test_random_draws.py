"""Where randomness of training comes from: the order of minibatches is nobody's but the loader's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from mini import shallow
from quick import LESS, QUICK, one_each, slow_but_for_some
from recording import Recorder, naive

import avalanche_vlm
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training import criterion_for, recipes
from avalanche_vlm.weights.average import snapshot

SIZES = {"n_train": 24, "n_test": 8, "n_held_out": 8, "n_reference": 16}

OFF = [
    ("lwf", {"weight": 0.0}),
    ("lwf", {"weight": 0.0, "images": "batch"}),
    ("lwf-vr", {"weight": 0.0, "sentences": 16}),
    ("lwf-vr", {"weight": 0.0, "sentences": 16, "texts_per_step": 4}),
    ("zscl", {"weight": 0.0, "l2": 0.0, "interval": 10**6}),
    ("snd", {"previous": 0.0, "initial": 0.0, "towers": "both"}),
    ("mod-x", {"weight": 0.0}),
    ("dkr", {"weight": 0.0}),
    ("ctp", {"topology": 0.0, "contrast": 0.0}),
    ("ewc-clip", {"weight": 0.0, "samples": 8}),
    ("gift", {"weight": 0.0, "alignment": 0.0, "consolidation": 0.0, "n": 16}),
    ("wise-ft", {"weight": 1.0}),
]
"""Recipes that train whole towers, with options under which nothing of the method is left."""

INITIALIZED = {
    **dict.fromkeys(("prototype-replay", "moe-adapters", "coop", "maple", "rapf"), ("built",)),
    **dict.fromkeys(("c-clip", "lora", "keeplora", "s-prompts", "diki", "coda-prompt"), ("first", "second")),
    **dict.fromkeys(("adapter-per-task", "dualprompt", "lada", "proof"), ("built", "first", "second")),
    "l2p": ("first",),
}
"""Recipes with parameters of their own that start at random values, and when these are drawn: as they are built, or
before the first or second task. torch draws such values from the global generator, under the seed of the experiment.
All other recipes leave it alone."""


@pytest.fixture(scope="module")
def streams():
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **SIZES),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **SIZES),
    }


def built(name, kind, streams, options):
    model, benchmark = shallow(), streams[kind]
    if kind == "classes":
        model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    torch.manual_seed(7)
    return model, recipes.build(name, model=model, **resources, **options)


def trained(name, kind, streams, options) -> list[dict[str, torch.Tensor]]:
    """The weights after each of two tasks."""
    model, plugins = built(name, kind, streams, options)
    look = Recorder("after_training_exp", lambda strategy: snapshot(dict(model.clip.named_parameters())))
    strategy = naive(model, [*plugins, look])
    strategy._criterion = criterion_for(kind, model)
    for experience in streams[kind].train_stream:
        strategy.train(experience)
    return look.values


@pytest.fixture(scope="module")
def fine_tuned(streams):
    return {kind: trained("fine-tune", kind, streams, {}) for kind in streams}


@pytest.mark.parametrize("kind", ["classes", "pairs"])
@pytest.mark.parametrize(("name", "options"), slow_but_for_some(OFF, ("lwf", "zscl")))
def test_a_method_of_which_nothing_is_left_trains_as_fine_tuning_does(streams, fine_tuned, name, options, kind):
    for found, expected in zip(trained(name, kind, streams, options), fine_tuned[kind], strict=True):
        different = [part for part, weight in expected.items() if not torch.equal(found[part], weight)]
        assert not different


CASES = [(name, kind) for name in recipes.list() if name != "zero-shot" for kind in recipes.get(name).kinds]


@pytest.mark.parametrize(("name", "kind"), one_each(CASES, quick=QUICK))
def test_nothing_but_new_parameters_is_drawn_from_the_global_generator_between_epochs(streams, name, kind):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model, plugins = built(name, kind, streams, LESS.get(name, {}))
    after_building = torch.get_rng_state()
    points = ("before_training_epoch", "after_training_epoch")
    look = [Recorder(at, lambda strategy: torch.get_rng_state()) for at in points]
    strategy = naive(model, [*plugins, *look])
    strategy._criterion = criterion_for(kind, model)
    for experience in streams[kind].train_stream:
        strategy.train(experience)
    starts, ends = (recorder.values for recorder in look)  # none where a method has no epochs
    pairs = {"built": (before, after_building)}
    if starts:
        pairs |= {"first": (after_building, starts[0]), "second": (ends[0], starts[1])}
    moved = [when for when, (one, other) in pairs.items() if not torch.equal(one, other)]
    assert moved == list(INITIALIZED.get(name, ()))


def test_no_loader_outside_the_training_loop_draws_from_the_global_generator():
    package = Path(avalanche_vlm.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("DataLoader", "_Ordered")):
                own = any(keyword.arg == "generator" for keyword in node.keywords)
                found.add((path.relative_to(package).as_posix(), own))
    assert found == {
        ("benchmarks/pair_pictures.py", True),
        ("benchmarks/reading.py", True),
        ("benchmarks/shares.py", True),  # that of the loader in whose place it stands
        ("benchmarks/sources/checking.py", True),
        ("training/reference/task.py", True),
        ("models/reading_files.py", True),
        ("training/data.py", False),  # the training loop's own
        ("training/checkpoint/batches.py", False),  # the same one, in the middle of an epoch
    }
