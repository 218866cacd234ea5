"""The examples run."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from avalanche.training.supervised import Naive
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output
from made import tiny as tiny_vlm
from mini import mini
from traitlets import Type
from traitlets.config import Config

from avalanche_vlm import models
from avalanche_vlm.artifacts import saving  # noqa: F401  before a test replaces create_vlm, which it takes over
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training import recipes
from avalanche_vlm.weights.average import snapshot

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    "script", sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.parent.glob("benchmarks/*.py")]), ids=lambda path: path.name
)
def test_what_scripts_import_is_there(script):
    # Most scripts import in functions, and are not run by tests.
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avalanche_vlm"):
            for alias in node.names:
                exec(f"from {node.module} import {alias.name}")


@pytest.mark.slow
def test_plug_into_avalanche():
    module = runpy.run_path(str(EXAMPLES / "plug_into_avalanche.py"))
    outcomes = module["main"](["--n-train", "64", "--n-test", "40", "--epochs", "1", "--verbose"])
    assert set(outcomes) == {"fine-tune", "replay", "zscl", "lora"}
    for outcome in outcomes.values():
        # Avalanche's accuracy over the stream and our matrix are two counts of the same thing.
        assert outcome["stream_accuracy"] == pytest.approx(np.mean(outcome["matrix"][-1]), abs=1e-6)
        assert len(outcome["held_out"]) == 3


@pytest.mark.slow
def test_diagnose_in_avalanche(tmp_path, capsys):
    module = runpy.run_path(str(EXAMPLES / "diagnose_in_avalanche.py"))
    options = ["--n-train", "64", "--n-test", "20", "--epochs", "2", "--out", str(tmp_path), "--verbose"]
    found = module["main"](options)
    assert len(found["drift"]["curves"]["RSA"]) == 4 and len(found["interference"]["update"]) == 3
    assert not np.isnan(found["interference"]["conflict"]["cosine"][2]).any()
    assert {"captions", "size", "position", "task night", "task digits"} <= set(found["erosion"]["sets"])
    # The scalars are in the logs of all three loggers, beside Avalanche's own.
    assert found["metrics"]["Drift/RSA"] == found["drift"]["curves"]["RSA"][-1]
    terminal, log = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    for text in (terminal, log):
        assert "Drift/hit@1" in text and "Conflict/image.0" in text and "Erosion/task night" in text
    assert (tmp_path / "eval_results.csv").read_text().count("\n") == 1 + 4 * 3


def test_the_snippet_of_the_diagnosis_page_runs():
    page = (EXAMPLES.parent / "docs" / "diagnosis.md").read_text()
    snippet = page.split("```python")[1].split("```")[0].replace("seed=0", "n_train=8, n_test=8")
    names: dict = {}
    exec(snippet, names)
    assert [type(probe).__name__ for probe in names["evaluator"].metrics] == [
        "DriftProbe",
        "InterferenceProbe",
        "ErosionProbe",
    ]


@pytest.mark.slow
def test_the_attribution_of_earlier_tasks_runs_as_its_page_has_it():
    page = (EXAMPLES.parent / "docs" / "diagnosis.md").read_text()
    (snippet,) = (part.split("```")[0] for part in page.split("```python")[1:] if "attribute_tasks" in part)
    stream = picturebook.mtil_like(n_train=16, n_test=12, n_held_out=8, n_reference=8, order=["sketches", "night"])
    model = tiny_vlm()
    names = {"benchmark": stream, "model": model, "start": snapshot(model.clip.state_dict())}
    exec(snippet, names)
    assert names["found"]["score"] == "earlier tasks, accuracy" and names["found"]["samples"] == 12


@pytest.mark.slow
def test_advice_in_python_is_as_the_diagnosis_page_has_it(tiny_benchmark, capsys):
    page = (EXAMPLES.parent / "docs" / "diagnosis.md").read_text()
    (snippet,) = (part.split("```")[0] for part in page.split("```python")[1:] if "advise(" in part)
    few = snippet.replace("limits, minutes", "limits, recipes=['zero-shot'], minutes")
    exec(few, {"benchmark": tiny_benchmark, "model": tiny_vlm()})
    assert few != snippet and capsys.readouterr().out.startswith("Take zero-shot: Last ")


def test_the_readmes_script_runs():
    readme = (EXAMPLES.parent / "README.md").read_text()
    script = readme.split("```python")[1].split("```")[0]
    asked = 'benchmarks.create("picturebook", model=model, seed=0'
    small = ", n_train=32, n_test=16, n_held_out=8, n_reference=64, order=['sketches', 'night']"
    assert f"{asked})" in script and "train_epochs=5" in script
    names: dict = {}
    exec(script.replace(asked, asked + small).replace("train_epochs=5", "train_epochs=1"), names)
    assert names["strategy"].clock.train_exp_counter == 2


@pytest.mark.slow
def test_the_snippets_of_the_replay_page_run(tmp_path, monkeypatch, capsys):
    page = (EXAMPLES.parent / "docs" / "replay.md").read_text()
    monkeypatch.chdir(tmp_path)  # one of them saves a memory
    names: dict = {}
    for snippet in page.split("```python")[1:]:
        exec(snippet.split("```")[0], names)
    assert capsys.readouterr().out.splitlines() == ["diagonal 5400", "torch.Size([6, 3, 32, 32]) 3"]


def test_the_snippet_of_the_adaptation_page_runs(tmp_path, monkeypatch, capsys):
    page = (EXAMPLES.parent / "docs" / "adaptation.md").read_text()
    monkeypatch.chdir(tmp_path)
    (snippet,) = (part.split("```")[0] for part in page.split("```python")[1:])
    exec(snippet, {})
    assert capsys.readouterr().out == "['sketches', 'night'] 36864\n"
    assert (tmp_path / "sketches.safetensors").stat().st_size < 200_000


@pytest.fixture
def forgotten_afterwards():
    yield
    recipes.forget("ldifs")


@pytest.mark.slow
def test_the_method_of_the_docs_is_added_and_works(tiny_benchmark, forgotten_afterwards):
    page = (EXAMPLES.parent / "docs" / "adding_a_method.md").read_text()
    method, use = (snippet.split("```")[0] for snippet in page.split("```python")[1:])
    assert len([line for line in method.splitlines() if line.strip()]) <= 22  # its imports included
    names: dict = {}
    exec(method, names)
    assert recipes.list(family="CREG")[-1] == "ldifs" and recipes.describe("ldifs").papers == ("arXiv 2308.13320",)
    exec(use, names)
    assert names["strategy"].clock.train_exp_counter == 2

    def moved(weight: float) -> float:
        """How far training takes the features of the pictures from the pretrained model's."""
        torch.manual_seed(0)
        model = tiny_vlm()
        experience = tiny_benchmark.train_stream[0]
        images = torch.stack([experience.dataset.eval()[i][0] for i in range(64)])
        with model.evaluating():
            before = model.encode_image(images)
        Naive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=5e-4),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=32,
            train_epochs=2,
            plugins=recipes.build("ldifs", model=model, weight=weight),
        ).train(experience)
        with model.evaluating():
            return (model.encode_image(images) - before).square().sum(1).mean().item()

    assert moved(weight=10.0) < 0.7 * moved(weight=0.0)


def notebooks() -> list[Path]:
    return sorted(EXAMPLES.glob("*.ipynb"))


class Shown(DisplayHook):
    """Keeps what a cell ends with, in every form."""

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.shown.append(format_dict)


class Shell(InteractiveShell):
    """A notebook's shell in this process, where what notebooks import is there already: a kernel takes ten seconds."""

    displayhook_class = Type(Shown)

    def enable_gui(self, gui=None):
        """Pictures are drawn into the notebook, in no window."""


def executed(cells: list[str], monkeypatch) -> list[dict]:
    """What a notebook's cells show, in every form: text, pictures."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell puts a module of its own there
    backend = matplotlib.get_backend()
    shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.shown = shown = []
    # What "%matplotlib inline" does for the first shell of a process alone, but for a second drawing to trim margins.
    select_figure_formats(shell, {"png"}, bbox_inches=None)
    try:
        with matplotlib.rc_context():
            for cell in cells:
                with capture_output() as said:
                    done = shell.run_cell(cell)
                done.raise_error()
                shown += [output.data for output in said.outputs]
    finally:
        shell.restore_sys_module_state()
        Shell.clear_instance()
        matplotlib.use(backend)
    return shown


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
@pytest.mark.slow
def test_notebooks_run_with_small_settings(path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source += "\nN_TRAIN, N_TEST, N_HELD_OUT, EPOCHS = 32, 20, 40, 1\nTASKS = ['sketches', 'night']"
    monkeypatch.chdir(EXAMPLES)
    # Some of them go the ways of the command line, which knows models by their names.
    if path.stem not in ("living_model", "benchmarks", "your_photos"):
        monkeypatch.setattr(models, "create_vlm", lambda name: mini())
    # Beside other tests a second thread makes a notebook slower, by far.
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    shown = executed([cell.source for cell in notebook.cells if cell.cell_type == "code"], monkeypatch)
    assert sum("image/png" in data for data in shown) >= 5


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebooks_are_committed_with_their_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    install, *ran = [c for c in notebook.cells if c.cell_type == "code"]
    # It would install nothing where notebooks are run for the repository, and is not run there.
    assert "install" in install.metadata["tags"] and "%pip install" in install.source and not install.outputs
    assert all(c.execution_count is not None for c in ran)
    assert not any(o.output_type == "error" for c in ran for o in c.outputs)
    # Warnings name paths of the machine, and nobody else has those.
    assert not any(o.get("name") == "stderr" for c in ran for o in c.outputs)
    assert "site-packages" not in path.read_text()


@pytest.mark.parametrize("name", ["adaptation", "diagnosis"])
def test_a_notebook_says_what_it_shows(name):
    """Figures with a decimal in its prose are among the printed ones."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    figure = re.compile(r"(?<![\d.,])\d{1,3}\.\d\b")
    printed = {number for o in outputs if o.output_type == "stream" for number in figure.findall(o.text)}
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    said = set(figure.findall(prose))
    assert len(said) > 15
    assert said <= printed
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) >= 6


def test_the_snippets_of_the_benchmark_page_run(tmp_path, monkeypatch):
    from avalanche_vlm import benchmarks
    from avalanche_vlm.benchmarks import registry as benchmark_registry
    from avalanche_vlm.benchmarks.sources import registry as format_registry

    for kept in (benchmark_registry.BENCHMARKS, format_registry.FORMATS):
        monkeypatch.setattr(kept, "_registered", dict(kept._known))
    page = (EXAMPLES.parent / "docs" / "adding_a_benchmark.md").read_text()
    for snippet in page.split("```python")[1:]:
        exec(snippet.split("```")[0], {})
    stream = benchmarks.create("two-nights", model=tiny_vlm(), n_train=32)
    assert stream.task_names == ("night", "x-rays") and stream.protocol["n_train"] == 32
    assert format_registry.format_of(tmp_path / "photos.ssv").name == "semicolons"


@pytest.mark.slow
def test_living_model(tmp_path, capsys):
    module = runpy.run_path(str(EXAMPLES / "living_model.py"))
    done = module["main"](["--n-train", "32", "--n-test", "12", "--epochs", "1", "--out", str(tmp_path)])
    assert [step.version for step in done] == ["v2", "v3"] and (tmp_path / "model").resolve().name == "v1"
    assert capsys.readouterr().out.endswith("back to v1 from v3\n")
