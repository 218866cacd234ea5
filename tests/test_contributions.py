"""What a contributor brings from outside the package, in one place each, and where it then shows.

A metric is in ``studies/test_own_metric.py``, a router in ``models/routers/test_router_registry.py``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from recording import naive

from avalanche_vlm import benchmarks, cli
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.registry import BENCHMARKS
from avalanche_vlm.benchmarks.sources.registry import FORMATS, Format, register_format
from avalanche_vlm.memory import Memory, list_memories, memory_class, register_memory, registry
from avalanche_vlm.memory.state import KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import ExemplarReplayPlugin
from avalanche_vlm.training.plugins.base import Strategy, VLMPlugin
from avalanche_vlm.training.recipes import recipe
from avalanche_vlm.training.recipes.ranges import NonNegative

SMALL = ["--epochs", "1", "--quiet"]


class Pull(VLMPlugin):
    """A method: pulls the weights to 0."""

    states: ClassVar = {"steps": KEPT}

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.steps = torch.zeros((), dtype=torch.int64)

    def before_backward(self, strategy: Strategy, **kwargs: object) -> None:
        squares = [p.square().sum() for p in strategy.model.parameters() if p.requires_grad]
        strategy.loss += self.weight * torch.stack(squares).sum()
        self.steps += 1


@pytest.fixture
def method() -> Iterator[str]:
    @recipe("pull-to-zero", family="CREG", summary="weights are pulled to nothing", paper=["2308.13320"])
    def pull_to_zero(model: VLM, *, weight: NonNegative = 1e-5) -> list:
        """Pull the weights to 0.

        :param weight: weight of the squared norm, 0 or more.
        """
        return [Pull(weight)]

    yield "pull-to-zero"
    recipes.forget("pull-to-zero")


@pytest.fixture
def stream(monkeypatch) -> str:
    monkeypatch.setattr(BENCHMARKS, "_registered", dict(BENCHMARKS._known))

    @benchmarks.register("two-nights", kind="classes", summary="colours by night, then sketches", order=None)
    def two_nights(seed: int = 0, *, n_train: int = 32, train_transform=None, eval_transform=None, tokenizer=None):
        return picturebook.mtil_like(
            seed, order=["night", "sketches"], n_train=n_train, n_test=16, n_held_out=16, n_reference=16,
            train_transform=train_transform, eval_transform=eval_transform, tokenizer=tokenizer,
        )  # fmt: skip

    return "two-nights"


def listed(what: str, capsys, *name: str) -> str:
    capsys.readouterr()
    assert cli.main(["list", what, *name]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_method_on_a_benchmark_is_listed_run_compared_and_reported(method, stream, tmp_path, capsys):
    line = next(line for line in listed("recipes", capsys).splitlines() if method in line)
    assert "CREG" in line and "weights are pulled to nothing" in line
    facts = listed("recipes", capsys, method)
    assert "weight of the squared norm" in facts and "2308.13320" in facts
    assert "colours by night, then sketches" in listed("benchmarks", capsys)
    assert "n_train" in listed("benchmarks", capsys, stream)

    out = tmp_path / "out"
    asked = ["--benchmark", stream, "--out", str(out), "--set", f"{method}.weight=1e-4", *SMALL]
    assert cli.main(["compare", "--recipes", f"fine-tune,{method}", *asked]) == 0
    results = [json.loads(path.read_text()) for path in sorted(out.rglob("result.json"))]
    protocols = {result["protocol"]["recipe"]: result["protocol"] for result in results}
    assert set(protocols) == {"fine-tune", method}
    assert protocols[method]["recipe_options"] == {"weight": 1e-4}
    assert all(result["tasks"] == ["night", "sketches"] for result in results)
    stored = {result["protocol"]["recipe"]: result["costs"]["stored_bytes"] for result in results}
    assert stored["fine-tune"] == 0 and stored[method] == 8  # what it declared as kept

    assert method in capsys.readouterr().out  # the table
    (table,) = out.glob("results.csv")
    assert {row["recipe"] for row in csv.DictReader(table.open())} == {"fine-tune", method}
    assert cli.main(["report", str(out)]) == 0
    for page in ("report.html", "report.md", "report.json"):
        assert method in (out / page).read_text()

    assert cli.main(["run", "--recipe", method, *asked[:4], "--set", "weight=-1", *SMALL]) == 2
    assert f"recipe {method}: weight is a number of 0 or more, not -1" in capsys.readouterr().err


def space_rows(path: Path, problems) -> Iterator[tuple[int, dict]]:
    """A format: a line each of image, label and task, with spaces between."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        yield number, dict(zip(("image", "label", "task"), line.split(), strict=True))


def test_a_format_is_listed_and_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FORMATS, "_registered", dict(FORMATS._known))
    register_format(Format("spaced", "fields with spaces between", (".spaced",), space_rows))
    lines = []
    for task in ("first", "second"):
        for label, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            for number in range(4):
                name = f"{task}-{label}-{number}.png"
                Image.new("RGB", (32, 32), tuple(max(0, c - 9 * number) for c in colour)).save(tmp_path / name)
                lines.append(f"{name} {label} {task}")
    (tmp_path / "data.spaced").write_text("\n".join(lines))
    assert "fields with spaces between" in listed("formats", capsys)
    out = tmp_path / "out"
    assert cli.main(["run", "--data", str(tmp_path / "data.spaced"), "--out", str(out), *SMALL]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["tasks"] == ["first", "second"]
    assert len(result["matrix"]) == 3 and all(0 <= value <= 100 for row in result["matrix"] for value in row)


def test_a_memory_is_named_saved_and_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(registry._registry, "_registered", dict(registry._registry._known))

    @register_memory
    class Means(Memory):
        """The mean of each class's features."""

        name = "means"
        states: ClassVar = {"means": KEPT, "y": KEPT}
        max_bytes = None

        def __init__(self) -> None:
            self.means = torch.zeros(0, 2)
            self.y = torch.zeros(0, dtype=torch.int64)

        def __len__(self) -> int:
            return len(self.y)

        @property
        def settings(self) -> dict:
            return {}

        def sample(self, n: int) -> dict[str, torch.Tensor]:
            return {"features": self.means[:n], "y": self.y[:n], "task": torch.zeros_like(self.y[:n])}

        def resize(self, max_bytes: int) -> None:
            raise NotImplementedError

        def fit(self, features: torch.Tensor, y: torch.Tensor) -> None:
            for label in y.unique():
                self.means = torch.cat([self.means, features[y == label].mean(0, keepdim=True)])
                self.y = torch.cat([self.y, label[None]])

    assert "means" in list_memories() and memory_class("means") is Means
    memory = Means()
    memory.fit(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]))
    assert memory.stored().total == 2 * 2 * 4 + 2 * 8 and not memory.keeps_raw_data()
    memory.save(tmp_path)
    loaded = memory_class("means").load(tmp_path)
    assert type(loaded) is Means and loaded.means.tolist() == [[2.0, 0.0], [0.0, 5.0]] and loaded.y.tolist() == [0, 1]


def test_the_documented_memory_is_replayed(monkeypatch, random_model, tiny_benchmark):
    monkeypatch.setattr(registry._registry, "_registered", dict(registry._registry._known))
    page = (Path(__file__).parents[1] / "docs" / "replay.md").read_text()
    code = page.split("### Your own memory")[1].split("```python\n")[1].split("```")[0]
    names = {"torch": torch, "model": random_model, "ExemplarReplayPlugin": ExemplarReplayPlugin}
    exec(code, names)
    naive(random_model, names["plugins"]).train(tiny_benchmark.train_stream[:2])
    assert 0 < len(names["newest"]) <= (1 << 16) // (3 * 32 * 32)
