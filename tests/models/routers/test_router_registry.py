"""A router from outside the package: one class with its name."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from made import tiny as tiny_vlm

from avalanche_vlm._registry import Registry
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import CalibratedRouter, create_router, list_routers, register_router
from avalanche_vlm.models.routers.registry import ROUTERS
from avalanche_vlm.training import VLMNaive, recipes

SHELF: list[Registry] = []
"""What a module that a test writes registers itself in."""


@pytest.fixture
def outsider(monkeypatch):
    """A router that a user has written: the distance from the mean of a task."""
    monkeypatch.setattr(ROUTERS, "_registered", dict(ROUTERS._known))

    @register_router("task-mean")
    class TaskMeanRouter(CalibratedRouter):
        parts = ("means",)

        def __init__(self, quantile: float = 0.95) -> None:
            super().__init__(quantile)

        def _learn(self, features, labels):
            return {"means": features.mean(0, keepdim=True)}

        def _measure(self, features, parts):
            return torch.cdist(features, parts["means"])

    return TaskMeanRouter


def test_a_router_from_outside_is_listed_and_built_by_name(outsider):
    assert "task-mean" in list_routers()
    router = create_router("task-mean", quantile=0.9)
    assert type(router) is outsider and router.quantile == 0.9
    with pytest.raises(InputError, match="router task-mean has no option 'centres'; it has quantile"):
        create_router("task-mean", centres=3)


def test_a_recipe_takes_it_by_name_and_routes_with_it(outsider, tiny_benchmark):
    torch.manual_seed(0)
    model = tiny_vlm("random")
    plugins = recipes.build("adapter-per-task", model=model, router="task-mean", bottleneck=2)
    strategy = VLMNaive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01), train_mb_size=32, plugins=plugins
    )
    strategy.train(tiny_benchmark.train_stream)
    assert type(model.routed.router) is outsider and len(model.routed.router) == 2
    images = torch.stack([tiny_benchmark.test_stream[0].dataset.eval()[i][0] for i in range(4)])
    route = model.routed.router.score(model.eval().encode_image_plain(images))
    assert route.task.shape == (4,)
    fresh = tiny_vlm("random")
    recipes.build("adapter-per-task", model=fresh, router="task-mean", bottleneck=2)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images, 0), model(images, 0))


def test_a_name_is_taken_once(outsider):
    with pytest.raises(InputError, match=r"a router called 'kmeans' is registered already: .*KMeansRouter"):

        @register_router("kmeans")
        class Another(CalibratedRouter):
            pass

    assert ROUTERS.get("kmeans").__name__ == "KMeansRouter"


def test_a_file_in_the_folder_is_all_that_a_router_of_the_package_takes(monkeypatch, tmp_path):
    monkeypatch.setattr(ROUTERS, "_registered", dict(ROUTERS._known))
    (tmp_path / "dropped_in.py").write_text(
        "from avalanche_vlm.models.routers import PrototypeRouter, register_router\n"
        "@register_router('dropped-in')\nclass DroppedIn(PrototypeRouter):\n    pass\n"
    )
    package = importlib.import_module("avalanche_vlm.models.routers")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(ROUTERS, "_folder", package.__name__)  # as in a process that has not looked yet
    assert "dropped-in" in list_routers() and type(create_router("dropped-in")).__name__ == "DroppedIn"
    sys.modules.pop("avalanche_vlm.models.routers.dropped_in")


def test_the_same_class_may_come_again():
    kind = ROUTERS.get("kmeans")
    assert register_router("kmeans")(kind) is kind


def test_an_unknown_router_names_those_that_there_are():
    with pytest.raises(InputError, match="no router is called 'nearest'; there are autoencoder, kmeans, gaussian, "):
        create_router("nearest")


def test_a_folder_is_read_before_a_name_is_given_away(tmp_path, monkeypatch):
    (tmp_path / "shelf_of_tests").mkdir()
    (tmp_path / "shelf_of_tests/__init__.py").touch()
    own = "from test_router_registry import SHELF\n\nclass Shipped: ...\n\nSHELF[0].add(Shipped, 'shipped')\n"
    (tmp_path / "shelf_of_tests/shipped.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_router_registry", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "SHELF", [Registry("router", type, "none", "shelf_of_tests")])
    with pytest.raises(InputError, match=r"a router called 'shipped' is registered already: .*Shipped"):
        SHELF[0].add(type("Mine", (), {}), "shipped")
    assert SHELF[0].names() == ["shipped"]
