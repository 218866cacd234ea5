"""Shared settings and fixtures."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

gc.disable()  # what is imported and collected stays until the end: to look through it again and again finds nothing
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--grid", action="store_true", help="every case of the grids of which slow tests have a part")


def pytest_configure(config: pytest.Config) -> None:
    if _only_hands_out(config):
        return
    import torch

    # More threads than these small matrices deserve make everything slower, on shared cores by far.
    torch.set_num_threads(1)


def _only_hands_out(config: pytest.Config) -> bool:
    """Whether this process gives tests to others, and imports nothing heavy while they wait for it."""
    return bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--grid"):
        left_out = [item for item in items if item.get_closest_marker("grid")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    # What is left on in a generator that nobody has ended would decide what later tests compute, until it is collected.
    left = {
        "autocast": torch.is_autocast_enabled("cpu"),
        "no gradients": not torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "another type of numbers": torch.get_default_dtype() != torch.float32,
    }
    assert not any(left.values()), f"left on behind the test: {', '.join(name for name, on in left.items() if on)}"


@pytest.fixture(autouse=True)
def _not_synchronized(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test loses its power, and to be ready for it takes a disk milliseconds, tens of thousands of times."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What chooses by the machine how much it does at once does one thing at a time, in this process."""
    from avalanche_vlm import _processors

    monkeypatch.setattr(_processors, "cores", lambda: 1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in the cache of whoever runs the tests."""
    monkeypatch.setenv("AVALANCHE_VLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_benchmark():
    """Two tasks with their own classes, 64 training pictures each."""
    from avalanche_vlm.benchmarks import picturebook

    return picturebook.mtil_like(n_train=64, n_test=20, order=["sketches", "night"], n_held_out=40, n_reference=64)


@pytest.fixture(scope="session")
def tiny_pairs():
    """Two tasks of captioned pictures."""
    from avalanche_vlm.benchmarks import picturebook

    return picturebook.pairs(domains=("sketch", "night"), n_train=64, n_test=20, n_held_out=40, n_reference=64)


@pytest.fixture(scope="module")
def narrow_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The shipped model with narrow towers and random weights, in this process: for what no pretraining decides."""
    from narrow import narrowed

    with narrowed(tmp_path_factory.mktemp("narrow")):
        yield


@pytest.fixture
def random_model():
    """A model with random weights, as deep as the shipped one and a quarter as wide."""
    from mini import mini

    return mini()


@pytest.fixture
def mini_model(random_model):
    """The same, for what is trained for its own sake."""
    return random_model
