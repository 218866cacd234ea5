"""Every recipe for captions, and stock plugins that read identities, on a stream whose images have several captions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable

import pytest
import torch
from avalanche.training import plugins as stock
from avalanche.training.storage_policy import ClassBalancedBuffer, ExperienceBalancedBuffer, ReservoirSamplingBuffer
from mini import shallow
from quick import LESS, slow_but_for_some
from recording import naive
from several import several_captions

from avalanche_vlm.evaluation.zero_shot import retrieval_scores
from avalanche_vlm.losses.identity import BITS
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import criterion_for, recipes
from avalanche_vlm.training.settings import TrainSettings

PAIRS = [name for name in recipes.list() if "pairs" in recipes.get(name).kinds]
BUFFERS = {
    "class-balanced": lambda: ClassBalancedBuffer(8),
    "experience-balanced": lambda: ExperienceBalancedBuffer(8),
    "reservoir": lambda: ReservoirSamplingBuffer(8),
}
STOCK: dict[str, Callable] = {
    "ewc": lambda: stock.EWCPlugin(1.0),
    "gdumb": lambda: stock.GDumbPlugin(8),
    "gem": lambda: stock.GEMPlugin(4, 0.5),
    "mas": lambda: stock.MASPlugin(),
    **{name: lambda make=make: stock.ReplayPlugin(8, storage_policy=make()) for name, make in BUFFERS.items()},
}


@pytest.fixture(scope="module")
def stream():
    return several_captions(shallow())


def test_the_stream_has_what_it_is_for(stream):
    for part in (stream.train_stream, stream.test_stream):
        y = [int(y) for y in part[0].dataset.targets]
        images, captions = [n >> BITS for n in y], [n % 2**BITS for n in y]
        assert images.count(images[0]) == 3 and captions[3] == captions[2] and images[3] != images[2]
    assert len(set(images)) < len(images) and len(set(captions)) < len(captions)


@pytest.mark.parametrize("name", slow_but_for_some(PAIRS, ("replay", "zscl", "lora")))
def test_every_recipe_trains(stream, name):
    torch.manual_seed(0)
    options = {**LESS.get(name, {}), **({"max_bytes": 40_000} if "max_bytes" in recipes.get(name).settings else {})}
    outcome = run_experiment(
        stream, name, model=shallow(), settings=TrainSettings(lr=1e-3, epochs=1, batch_size=8), options=options
    )
    model, rows = outcome.strategy.model, outcome.result["matrix"]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert len(rows) == 3 and all(0 <= value <= 100 for row in rows for value in row)
    found = retrieval_scores(model, stream.test_stream[1].dataset.eval())
    expected = 50 * (found["image_to_text_hit@1"] + found["text_to_image_hit@1"])
    assert rows[-1][1] == pytest.approx(expected, abs=1e-3)
    json.dumps(outcome.result, allow_nan=False)


@pytest.mark.parametrize("name", slow_but_for_some(STOCK, ["class-balanced"]))
def test_stock_plugins_take_identities_as_they_are(stream, name):
    torch.manual_seed(0)
    model = shallow()
    strategy = naive(model, [STOCK[name]()])
    strategy._criterion = criterion_for("pairs", model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for experience in stream.train_stream:
            strategy.train(experience)
        strategy.eval(stream.test_stream)
    assert all(torch.isfinite(p).all() for p in model.parameters())
