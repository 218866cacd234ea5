"""A pool of modules, one for each task."""

from __future__ import annotations

import copy

import pytest
import torch
from pools import Tower, filled

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import HookedSite, attach_site, matching
from avalanche_vlm.storage import write_tensors


def test_adding_a_module_freezes_the_others_and_activates_the_new_one():
    _, pool = filled("a", "b")
    assert not any(p.requires_grad for p in pool.parameters("a"))
    assert all(p.requires_grad for p in pool.parameters("b"))
    assert pool.active == pool.current == "b" and len(pool) == 2
    assert pool.nbytes() == 2 * (24 * 2 + 2 * 24) * 4
    with pytest.raises(InputError, match="already has a module called 'a'"):
        pool.add("a")
    with pytest.raises(InputError, match="no module called 'c'; it has a, b"):
        pool.activate("c")


@torch.no_grad()
def test_switched_off_the_tower_is_what_it_was_bit_for_bit():
    tower, pool = filled("a")
    x = torch.randn(5, 24)
    plain = torch.nn.functional.linear(x, tower.layer.weight, tower.layer.bias)
    assert not torch.allclose(tower(x), plain)
    with pool.using(None):
        assert torch.equal(tower(x), plain)
    assert pool.active == "a"


@torch.no_grad()
def test_a_module_alone_in_a_file_answers_as_before(tmp_path):
    tower, pool = filled("a", "b")
    x = torch.randn(5, 24)
    with pool.using("a"):
        expected = tower(x)
    pool.save("a", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 2 * (24 * 2 + 2 * 24) * 4
    other, again = filled("own")
    again.load("a", tmp_path / "a.safetensors")
    assert again.active == again.current == "own" and all(p.requires_grad for p in again.parameters("own"))
    assert not any(p.requires_grad for p in again.parameters("a"))
    again.activate("a")
    assert torch.equal(other(x), expected)


@torch.no_grad()
def test_files_that_are_no_module_of_these_layers_change_nothing(tmp_path):
    _, pool = filled("a")
    pool.save("a", tmp_path / "a")
    wider = ModulePool(inject_lora(Tower(), rank=3, pattern="layer"))
    before = copy.deepcopy(pool.state("a"))
    with pytest.raises(InputError, match=r"holds layer\.weight\.A of shape \[2, 24\], not \[3, 24\]"):
        wider.load("a", tmp_path / "a")
    assert len(wider) == 0 and wider.active is None
    (tmp_path / "text").write_text("no module")
    for name, why in (("text", "text is truncated or no safetensors file"), ("missing", "missing is missing")):
        with pytest.raises(InputError, match=why):
            pool.load("b", tmp_path / name)
    with pytest.raises(InputError, match=r"cannot write .*below a file: Not a directory"):
        pool.save("a", tmp_path / "text" / "below a file")
    for changed, why in (
        (lambda t: t.clone().index_fill_(0, torch.tensor(0), float("nan")), "has numbers that are NaN or infinite"),
        (lambda t: t.clone().index_fill_(1, torch.tensor(0), float("-inf")), "has numbers that are NaN or infinite"),
        (lambda t: t.int(), r"as torch\.int32, which is no type of weights"),
        (lambda t: t.to(torch.complex64), r"as torch\.complex64, which is no type of weights"),
        (lambda t: t.flatten(), "of shape"),
    ):
        write_tensors(tmp_path / "b", {name: changed(tensor) for name, tensor in before.items()})
        with pytest.raises(InputError, match=why):
            pool.load("b", tmp_path / "b")
    assert pool.names == ["a"] and all(torch.equal(t, before[k]) for k, t in pool.state("a").items())


@torch.no_grad()
def test_a_merged_module_is_part_of_the_weights():
    tower, pool = filled("a", "b")
    x = torch.randn(5, 24)
    pool.activate("a")
    expected = tower(x)
    pool.merge("a")
    assert pool.names == ["b"] and pool.active is None
    torch.testing.assert_close(tower(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_shared_module_is_one_module_with_two_names():
    tower, pool = filled("a")
    pool.share("b", of="a")
    for parameter in pool.parameters("a"):
        parameter.add_(1)
    x = torch.randn(5, 24)
    with pool.using("a"):
        expected = tower(x)
    with pool.using("b"):
        assert torch.equal(tower(x), expected)
    assert pool.nbytes() == (24 * 2 + 2 * 24) * 4
    pool.drop("a")
    with pool.using("b"):
        assert torch.equal(tower(x), expected)
    assert pool.names == ["b"]


def test_a_numbered_name_is_never_given_twice():
    _, pool = filled()
    assert [pool.add_next() for _ in range(2)] == ["task_0", "task_1"]
    pool.drop("task_0")
    assert pool.add_next() == "task_2"  # by the number of modules it would be task_1, which is there
    pool.drop("task_2")
    assert pool.add_next() == "task_3"  # and not that of another module, which a router may still know
    pool.share("task_4", of="task_1")
    assert pool.add_next() == "task_5" and pool.names == ["task_1", "task_3", "task_4", "task_5"]
    _, again = filled()
    again.load_state_dict(pool.state_dict())
    again.drop("task_5")
    assert again.add_next() == "task_6" and again.current == again.active == "task_6"


@pytest.mark.parametrize(
    ("names", "following"), [([], "task_0"), (["task_0", "task_3"], "task_4"), (["shared"], "task_0")]
)
def test_a_state_that_counts_no_names_goes_on_after_the_largest(names, following):
    _, pool = filled(*names)
    state = {key: value for key, value in pool.state_dict().items() if key != "numbered"}
    _, again = filled()
    again.load_state_dict(state)
    assert again.add_next() == following


@pytest.mark.parametrize("trains", [True, False])
def test_a_restored_module_leaves_all_others_as_they_were(trains):
    _, pool = filled("a", "b")
    pool.freeze("b", frozen=not trains)
    pool.freeze("a", frozen=False)
    for parameter in pool.parameters("b"):
        parameter.grad = torch.ones_like(parameter)
    pool.restore("c", pool.state("a"), "a state")
    assert all(p.requires_grad == trains and (p.grad is not None) == trains for p in pool.parameters("b"))
    assert all(p.requires_grad for p in pool.parameters("a"))
    assert not any(p.requires_grad for p in pool.parameters("c"))
    assert pool.current == pool.active == "b"
    for refused in (lambda: pool.restore("a", pool.state("b"), "a state"), lambda: pool.share("b", of="a")):
        with pytest.raises(InputError, match="already has a module called"):
            refused()


class Offset(HookedSite):
    """Adds a number to a layer's output."""

    def __init__(self, host: torch.nn.Module) -> None:
        super().__init__(host)
        host.register_forward_hook(self.after)

    def build(self) -> torch.nn.Module:
        return torch.nn.ParameterDict({"offset": torch.ones(())})

    def after(self, _module, _inputs, output):
        return output if self.active is None else output + self.module["offset"]


def test_a_hooked_site_is_the_towers_child_and_copies_are_independent():
    tower = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3)))
    whole = torch.nn.ModuleDict({"tower": tower})
    ((name, host),) = matching(whole, r"0\.0$")
    site = Offset(host)
    root = torch.nn.Module()
    root.body = tower
    attach_site(root, "body.0.0", "offset", site)
    assert name == "tower.0.0" and root.body_0_0_offset is site  # no container runs it
    x = torch.randn(2, 3)
    plain = tower(x)
    site.add("t")
    site.active = "t"
    torch.testing.assert_close(root.body(x), plain + 1)
    twin = copy.deepcopy(root)
    with torch.no_grad():
        twin.body_0_0_offset.module["offset"].fill_(5)
    torch.testing.assert_close(twin.body(x), plain + 5)
    torch.testing.assert_close(root.body(x), plain + 1)
    with pytest.raises(InputError, match="Offset does not change weights"):
        site.merge("t")
    pool = ModulePool({"image.body": site})
    pool.names.append("t")
    with pytest.raises(InputError, match=r"the module at image\.body is no change of weights: t cannot be merged"):
        pool.merge("t")


def test_a_pool_of_nothing():
    with pytest.raises(InputError, match="needs layers"):
        ModulePool({})
