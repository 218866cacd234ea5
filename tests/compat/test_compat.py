"""The private names that we rely on still do what they did."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from avalanche_vlm.compat.code import code_of_models
from avalanche_vlm.compat.data_sets import register_collate, source_datasets
from avalanche_vlm.compat.tensors import OperatorMode


@dataclasses.dataclass
class Box:
    value: int


def test_registered_containers_reach_loaders_that_name_no_collate_function():
    register_collate(Box, lambda samples, *, collate_fn_map=None: torch.tensor([s.value for s in samples]))
    batches = list(DataLoader([(Box(i), i) for i in range(4)], batch_size=2))
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3]]


def test_a_data_set_is_traced_to_what_it_was_made_of(tiny_pairs):
    first, second = (experience.dataset for experience in tiny_pairs.train_stream)
    sources = [next(source_datasets(part)) for part in (first, second)]
    assert [type(source).__name__ for source in sources] == ["PairDataset"] * 2 and sources[0] is not sources[1]
    joined = ConcatDataset([first.eval().subset([1, 2]), Subset(second, [3])])
    assert list(source_datasets(joined)) == sources
    assert list(source_datasets(first.concat(second))) == sources


def test_an_operator_mode_sees_forward_and_backward_by_name():
    seen = []

    class Names(OperatorMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    weight = torch.ones(2, 2, requires_grad=True)
    with Names():
        (torch.ones(3, 2) @ weight).sum().backward()
    assert seen.count("aten.mm.default") == 2


def test_transformers_refuses_code_of_models_without_a_question(monkeypatch):
    utils = pytest.importorskip("transformers.dynamic_module_utils")
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")

    def trusted() -> bool:
        return utils.resolve_trust_remote_code(None, "some/model", has_local_code=False, has_remote_code=True)

    with code_of_models(), pytest.raises(ValueError, match="trust_remote_code"):
        trusted()
    assert not asked
    assert trusted() and len(asked) == 1  # as it was
