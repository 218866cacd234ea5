"""Memories by the common protocol: state out, fresh memory, state in, and both go on alike; found by name; one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import (
    ExemplarMemory,
    FeatureMemory,
    LatentMemory,
    Memory,
    list_memories,
    memory_class,
    register_memory,
)
from avalanche_vlm.memory import registry as registry_module
from avalanche_vlm.memory.draws import Draws, Passes
from avalanche_vlm.memory.files import load_memory
from avalanche_vlm.memory.state import RAW, WORKING, keeps_raw_data, undeclared


def through_files(state: dict[str, Any]) -> dict[str, Any]:
    """What a state is after its tensors were in safetensors and the rest was in JSON."""
    tensors = {name: value.contiguous().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    return {**load(save(tensors)), **json.loads(json.dumps(values, allow_nan=False))}


def labels(step: int, n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 3 + 3 * step
    return y, torch.full_like(y, step)


def pictures(memory: ExemplarMemory, step: int, tokens: int = 0) -> None:
    pixels = torch.randint(256, (24, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(step))
    text = torch.arange(24 * tokens).view(24, tokens) + 60_000 * step if tokens else None
    keys = torch.arange(24).float() if memory.policy in ("herding", "hardest") else None
    memory.add(pixels, *labels(step), text, step=step, keys=keys)


def latents(memory: LatentMemory, step: int, tokens: int = 0) -> None:
    values = torch.randn(24, 4, 5, generator=torch.Generator().manual_seed(step))
    memory.add(values, *labels(step), torch.arange(24 * tokens).view(24, tokens) if tokens else None, step=step)


def features(memory: FeatureMemory, step: int) -> None:
    memory.fit(torch.randn(24, 8, generator=torch.Generator().manual_seed(step)), *labels(step), step=step)


CASES: dict[str, tuple[Callable[[Any], Memory], Callable[[Any, int], None]]] = {
    "raw": (lambda folder: ExemplarMemory(3000, seed=3), pictures),
    "raw on disk": (lambda folder: ExemplarMemory(3000, seed=3, folder=folder), pictures),
    "png": (lambda folder: ExemplarMemory(4000, "reservoir", codec="png"), pictures),
    "jpeg on disk": (lambda folder: ExemplarMemory(9000, codec="jpeg", folder=folder), pictures),
    "herding": (lambda folder: ExemplarMemory(max_samples=9, policy="herding"), pictures),
    "pairs": (lambda folder: ExemplarMemory(4000, "hardest"), lambda memory, step: pictures(memory, step, 7)),
    "latents": (lambda folder: LatentMemory(900, "int8", seed=2), latents),
    "latent pairs": (lambda folder: LatentMemory(900), lambda memory, step: latents(memory, step, 3)),
    "full": (lambda folder: FeatureMemory("full", seed=4), features),
    "at a level of its own": (lambda folder: FeatureMemory("gmm", max_bytes=900), features),
}


def drawn(memory: Memory) -> dict[str, torch.Tensor]:
    return memory.sample(7)


def assert_alike(one: Memory, other: Memory, fill: Callable[[Any, int], None], step: int) -> None:
    """Both draw the same, learn the same and draw the same again."""
    for _ in range(2):
        assert len(one) == len(other) and one.stored().total == other.stored().total
        a, b = drawn(one), drawn(other)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        fill(one, step), fill(other, step)
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, entry in mine.items():
        if name != "_rows.values":  # where a picture lies may differ
            assert torch.equal(entry, theirs[name]) if isinstance(entry, torch.Tensor) else entry == theirs[name], name


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_memory_goes_on_from_a_state_as_the_old_one(name, tmp_path):
    make, fill = CASES[name]
    old, new, used, moved = (make(tmp_path / str(i)) for i in range(4))
    new.load_state_dict(through_files(old.state_dict()))  # of an empty one
    assert len(new) == 0
    for step in range(3):
        fill(old, step)
    drawn(old)
    state = through_files(old.state_dict())
    new.load_state_dict(state)
    fill(used, 5)
    drawn(used)
    used.load_state_dict(state)  # over what was there
    old.save(tmp_path / "saved")
    loaded = type(old).load(tmp_path / "saved")
    moved.load_state_dict(through_files(loaded.state_dict()))
    for other in (new, used, loaded, moved):
        again = make(tmp_path / "again")
        again.load_state_dict(state)
        assert_alike(again, other, fill, 4)
    assert old.keeps_raw_data() == new.keeps_raw_data() == loaded.keeps_raw_data()
    back = make(tmp_path / "back")
    fill(back, 0)
    back.load_state_dict(make(tmp_path / "empty").state_dict())
    assert len(back) == 0 and back.stored().total == 0 and not back.keeps_raw_data()


@pytest.mark.parametrize("change", [{"max_bytes": 1500}, {"max_samples": 5}])
def test_a_budget_that_was_changed_is_in_the_state(change):
    old, new = ExemplarMemory(3000), ExemplarMemory(3000)
    pictures(old, 0)
    old.resize(**change)
    new.load_state_dict(old.state_dict())
    assert (
        (new.max_bytes, new.max_samples)
        == (old.max_bytes, old.max_samples)
        == (
            change.get("max_bytes"),
            change.get("max_samples"),
        )
    )
    assert_alike(old, new, pictures, 1)


def test_a_level_that_was_reached_is_in_the_state():
    old, new = (FeatureMemory("full", max_bytes=700) for _ in range(2))
    for step in range(3):
        features(old, step)
    assert old.kind == "diagonal" and new.kind == "full"
    new.load_state_dict(old.state_dict())
    assert (new.kind, new.precision, new.components) == (old.kind, old.precision, old.components)


def test_a_state_that_does_not_fit_is_refused_in_a_sentence():
    old = ExemplarMemory(3000)
    pictures(old, 0)
    good = old.state_dict()
    short = {**good, "pictures": good["pictures"][:-1]}
    for memory, state, told in (
        (ExemplarMemory(3000), {}, "given to ExemplarMemory lacks 'max_bytes'"),
        (ExemplarMemory(3000), short, "ExemplarMemory is damaged: the pictures have another length than their sizes"),
        (ExemplarMemory(3000), {**good, "max_bytes": 200}, "ExemplarMemory is damaged: it holds more than its budget"),
        (ExemplarMemory(3000), {**good, "_shape": {"$": "tuple", "items": [3, 7, 7]}}, "another shape than"),
        (ExemplarMemory(3000), {k: v for k, v in good.items() if k != "pictures"}, "is damaged: 'pictures'"),
        (LatentMemory(900), good, "given to LatentMemory has 'max_samples', which it does not know"),
        (FeatureMemory(), {**FeatureMemory().state_dict(), "_draws.count": -1}, "number of draws .* not -1"),
    ):
        with pytest.raises(InputError, match=told):
            memory.load_state_dict(state)


def test_what_counts_as_the_users_data():
    for memory, fill, raw in (
        (ExemplarMemory(3000), pictures, True),
        (LatentMemory(900), latents, False),
        (LatentMemory(900), lambda memory, step: latents(memory, step, 3), True),
        (FeatureMemory(), features, False),
    ):
        assert keeps_raw_data([memory]) is False and undeclared([memory]) == []
        fill(memory, 0)
        assert keeps_raw_data([memory]) is raw
    assert ExemplarMemory(3000).may_keep_raw_data() and not FeatureMemory().may_keep_raw_data()


def test_tokens_are_the_users_unless_it_is_said_otherwise():
    values, tokens = torch.randn(6, 5), torch.ones(6, 2, dtype=torch.long)
    y = torch.arange(6)
    prompts = LatentMemory(2000)
    prompts.add(values, y, y, tokens, raw_text=False)
    assert not prompts.keeps_raw_data()
    fresh = LatentMemory(2000)
    fresh.load_state_dict(prompts.state_dict())
    assert not fresh.keeps_raw_data()
    prompts.add(values, y, y, tokens)
    assert prompts.keeps_raw_data()
    fresh.load_state_dict(prompts.state_dict())
    assert fresh.keeps_raw_data() and fresh.raw_text


def test_draws_and_passes_go_on_where_they_were():
    old, new = Draws(3), Draws(9)
    old.next()
    new.load_state_dict(old.state_dict())
    assert torch.equal(torch.rand(4, generator=old.next()), torch.rand(4, generator=new.next()))
    walk, again = Passes(10, 3, 1), Passes(10, 3, 2)
    for _ in range(5):
        walk.next()
        again.load_state_dict(through_files(walk.state_dict()))
        assert again.stored() == walk.stored()
        same = Passes(10, 3, 7)
        same.load_state_dict(again.state_dict())
        assert [same.next().tolist() for _ in range(7)] == [again.next().tolist() for _ in range(7)]


class Latest(Memory):
    """The last pictures that came: a memory of a contributor's, in one class."""

    name = "latest"
    states: ClassVar = {"kept": RAW, "max_bytes": WORKING}

    def __init__(self, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self.kept = torch.zeros(0, 12, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, pixels: torch.Tensor) -> None:
        self.kept = pixels[-((self.max_bytes or 12) // 12) :].clone()

    def sample(self, n: int) -> dict[str, torch.Tensor]:
        return {"pixels": self.kept[:n]}

    def resize(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.add(self.kept)

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}


class Drawing(Latest):
    """One that draws by numpy's generator, and counts what no 64 bits hold."""

    name = "drawing"
    states: ClassVar = {**Latest.states, "draws": WORKING, "count": WORKING}

    def __init__(self, max_bytes: int | None, kind: str = "PCG64") -> None:
        super().__init__(max_bytes)
        self.draws, self.count = np.random.Generator(getattr(np.random, kind)(7)), 0


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_a_memory_that_draws_by_a_generator_of_numpys_is_read_again(tmp_path, kind):
    memory = Drawing(24, kind)
    memory.draws.random(3)
    memory.count = -(1 << 200)
    memory.save(tmp_path)
    files, draws = {path: path.read_bytes() for path in tmp_path.iterdir()}, memory.draws.random(5).tolist()
    tensors, content = load_memory(tmp_path, "drawing")
    again = Drawing(24, kind)
    again.load_state_dict({**content["state"], **tensors})
    assert again.draws.random(5).tolist() == draws and again.count == -(1 << 200)
    # What no reader would take is not written.
    memory.max_bytes = 1 << 70
    with pytest.raises(InputError, match=r"cannot write .*memory\.json, since it could not be read again: "):
        memory.save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_contributor_brings_a_memory_in_one_class(tmp_path, monkeypatch):
    monkeypatch.setattr(registry_module._registry, "_registered", dict(registry_module._registry._known))
    assert {"exemplars", "features", "latents"} <= set(list_memories()) and "latest" not in list_memories()
    register_memory(Latest)
    assert "latest" in list_memories() and memory_class("latest") is Latest
    memory = memory_class("latest")(max_bytes=24)
    memory.add(torch.arange(48, dtype=torch.uint8).view(4, 12))
    assert memory.stored().ram == 24 and memory.keeps_raw_data()
    memory.save(tmp_path)
    assert torch.equal(Latest.load(tmp_path).kept, memory.kept)
    assert register_memory(Latest) is Latest  # the same class may come again
    with pytest.raises(InputError, match="a memory called 'latest' is registered already"):
        register_memory(type("Other", (Latest,), {}))
    with pytest.raises(InputError, match=r"no memory is called 'oldest'; there are .*latents"):
        memory_class("oldest")
    with pytest.raises(InputError, match="holds a memory of kind 'latest', not 'latents'"):
        LatentMemory.load(tmp_path)
