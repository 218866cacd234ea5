"""A finished run is repeated with probes, and told why it lost what it lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from made import tiny as tiny_vlm
from quick import one_each

from avalanche_vlm import cli
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.studies import diagnosis
from avalanche_vlm.studies.attribution.steps import StepWeights
from avalanche_vlm.studies.attribution.tasks import TaskPart
from avalanche_vlm.studies.diagnosis import diagnose, probe_pairs
from avalanche_vlm.training.recipes import settings_for
from avalanche_vlm.training.settings import TrainSettings

SMALL = "--n-train 32 --n-test 10 --n-held-out 30 --n-reference 20 --epochs 2 --lr 2e-3 --warmup 0 --quiet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert cli.main(["run", "--out", str(out), "--order", "sketches,night", "--seed", "3", *SMALL.split()]) == 0
    assert cli.main(["diagnose", str(out), "--quiet"]) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def test_the_diagnosis_has_what_the_report_reads(folder):
    found, result = read(folder / "diagnosis.json"), read(folder / "result.json")
    assert found["protocol"] == result["protocol"] and found["tasks"] == ["sketches", "night"]
    for name, loss in found["exposures"].items():
        assert name in ("drift", "interference", "erosion")
        assert loss["low"] <= loss["points"] <= loss["high"] and loss["measure"].startswith("points")
    blocks = found["interference"]["blocks"]
    assert blocks[0] == "image.in" and blocks[-1] == "text.out"
    for rows in (*found["interference"]["conflict"].values(), found["interference"]["update"]):
        assert len(rows) == 2 and rows[0] == [None] * len(blocks) and len(rows[1]) == len(blocks)
    assert len(found["drift"]["curves"]["RSA"]) == 3 and found["drift"]["curves"]["RSA"][0] == 1
    assert len(found["drift"]["layers"]["CKA"]) == 3
    assert set(found["erosion"]["sets"]) >= {"captions", "size", "position", "task night"}
    assert [of["before_is"] for of in found["attribution"]] == ["when each was trained", "pretrained"]
    for attribution in found["attribution"]:
        assert [module["block"] for module in attribution["modules"]] == blocks
        assert attribution["interventions"][-1]["name"] == "all the way back"
        assert attribution["lost"]["points"] == pytest.approx(attribution["before"] - attribution["trained"], abs=1e-3)


def test_exposures_are_differences_of_the_matrix(folder):
    found, matrix = read(folder / "diagnosis.json")["exposures"], read(folder / "result.json")["matrix"]
    held_out = read(folder / "result.json")["held_out"]
    assert found["interference"]["points"] == pytest.approx(matrix[1][0] - matrix[2][0])
    attributed = read(folder / "diagnosis.json")["attribution"][0]
    assert (attributed["before"], attributed["trained"]) == (
        pytest.approx(matrix[1][0], abs=1e-3),
        pytest.approx(matrix[2][0], abs=1e-3),
    )
    captions = held_out["captions R@1"]
    assert found["drift"]["points"] == pytest.approx(captions[0] - captions[-1], abs=1e-3)
    losses = [held_out[name][0] - held_out[name][-1] for name in ("size", "position")]
    assert found["erosion"]["points"] == pytest.approx(sum([*losses, matrix[0][1] - matrix[1][1]]) / 3, abs=1e-3)


def test_it_repeats_the_run_and_says_when_it_could_not(folder, tmp_path, capsys, monkeypatch):
    for name in ("request.yaml", "result.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = read(folder / "diagnosis.json")
    del found["sha256"]  # what a diagnosis says, before it is written
    kept = read(folder / "result.json")

    class Outcome:
        result = kept

    monkeypatch.setattr(diagnosis, "diagnose", lambda *args, **kwargs: (found, Outcome))
    assert cli.main(["diagnose", str(tmp_path), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "repeated run" not in said
    for attribution in found["attribution"]:
        assert f"{attribution['score']}: {attribution['verdict']['sentence']}\n" in said
    Outcome.result = {**kept, "matrix": [[0.0, 0.0]] * 3}
    assert cli.main(["diagnose", str(tmp_path), "--quiet"]) == 0
    assert (
        "the machine or the code has changed since, and the diagnosis is of the repeated run" in capsys.readouterr().out
    )
    Outcome.result = {**kept, "protocol": {**kept["protocol"], "weights": {"content": "other"}}}
    assert cli.main(["diagnose", str(tmp_path), "--quiet"]) == 0
    assert "weights.content has changed since, and the diagnosis is of the repeated run" in capsys.readouterr().out
    # A run of an older version says less: the matrix tells.
    Outcome.result = {**kept, "protocol": {**kept["protocol"], "later": 1}}
    assert cli.main(["diagnose", str(tmp_path), "--quiet"]) == 0
    assert "repeated run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "label_space"),
    one_each(
        ((recipe, space) for recipe in ("fine-tune", "l2p", "ranpac", "lora", "proof") for space in ("task", "seen")),
        standing=("fine-tune", "l2p", "lora"),
    ),
)
def test_the_loss_on_earlier_tasks_is_the_matrix_s_and_what_brings_it_back_is_told(recipe, label_space, monkeypatch):
    """On a stream of classes alone, whatever answers: weights, prompts, heads, modules that a router chooses."""
    if recipe == "fine-tune":
        _same_when_put_back(monkeypatch)
    sizes = {"n_train": 96, "n_test": 40, "n_held_out": 8, "n_reference": 40, "label_space": label_space}
    stream = picturebook.mtil_like(0, **sizes, order=["sketches", "night", "fabrics"])
    stream.held_out = ()
    settings, options = settings_for(recipe, "picturebook")
    settings = TrainSettings(**{**settings, "epochs": 4})
    found, outcome = diagnose(stream, recipe, model=tiny_vlm(), settings=settings, options=options, seed=0)
    matrix, (attributed,) = np.array(outcome.result["matrix"]), found["attribution"]
    assert attributed["before"] == pytest.approx((matrix[1, 0] + matrix[2, 1]) / 2, abs=1e-3)
    assert attributed["trained"] == pytest.approx(matrix[3, :2].mean(), abs=1e-3)
    assert attributed["lost"]["points"] == pytest.approx(found["exposures"]["interference"]["points"], abs=1e-3)
    recovered = {of["name"]: of["recovered"] for of in attributed["interventions"]}
    whole = recovered["all the way back"] + recovered.get("let the classes of then compete", 0)
    sentence = attributed["verdict"]["sentence"]
    assert "nothing that is put back can help" not in sentence
    if recipe in ("fine-tune", "l2p"):  # all that answers can be put back, so all comes back
        assert whole == pytest.approx(attributed["lost"]["points"], abs=1e-3) and whole > 10
        assert f"Of {whole:.1f} points lost on earlier tasks" in sentence
    if recipe == "l2p" and label_space == "task":
        assert attributed["verdict"]["module"] == "image.path"
    if recipe == "lora":  # modules of their own, and weights that nobody trains
        assert recovered["all the way back"] == 0


def _same_when_put_back(monkeypatch) -> None:
    """Have every model that is put back compared with the one that was kept: its weights and features."""
    kept: dict[int, tuple[dict[str, torch.Tensor], torch.Tensor]] = {}
    keep, amend = StepWeights.keep, TaskPart.amend

    def noting(self, step):
        model = self._model
        with model.evaluating():
            texts = model.prompt_features(torch.arange(len(model.label_space)))
        kept[step] = {name: value.clone() for name, value in model.clip.state_dict().items()}, texts.clone()
        keep(self, step)

    def comparing(self):
        state, texts = kept[self._step]
        odd = [name for name, value in self.model.clip.state_dict().items() if not torch.equal(value, state[name])]
        assert odd == [] and torch.equal(self.reference[1], texts)
        images = torch.cat([self.model.encode_image(x, task_labels=t) for x, t in self._own.batches])
        assert torch.allclose(self.reference[0], images, atol=1e-6)
        amend(self)

    monkeypatch.setattr(StepWeights, "keep", noting)
    monkeypatch.setattr(TaskPart, "amend", comparing)


@pytest.mark.slow
def test_a_repeated_run_gives_the_same_matrix(folder, capsys):
    matrix = read(folder / "result.json")["matrix"]
    assert cli.main(["diagnose", str(folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "repeated run" not in said
    lost = matrix[1][0] - matrix[2][0]
    told = (
        f"Of {lost:.1f} points lost on earlier tasks since each",
        f"On earlier tasks nothing was lost that can be told from chance ({lost:.1f} points)",
    )
    assert any(sentence in said for sentence in told) and "nothing that is put back can help" not in said


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    (tmp_path / "request.yaml").write_text("")
    (tmp_path / "result.json").write_text("{}")
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "result.json is not the result of a run as this version writes it: it does not say its format" in said


def test_pairs_come_from_captions_or_from_class_prompts():
    model = tiny_vlm()
    stream = picturebook.mtil_like(n_train=8, n_test=6, order=["sketches", "night"], n_held_out=20, n_reference=8)
    pairs, called = probe_pairs(stream, model, 12, 0)
    assert len(pairs) == 12 and called == "held-out captions"
    stream.held_out = ()
    pairs, called = probe_pairs(stream, model, 100, 0)
    x, y = pairs[7]
    assert len(pairs) == 12 and called == "test pictures and prompts" and isinstance(x, ImageText)
    assert x.tokens.tolist() == model.tokenizer([stream.label_space.prompts()[y][0]])[0].tolist()


def test_an_attribution_that_no_disk_takes_is_not_lost(tmp_path, monkeypatch):
    def full(document, path, content):
        raise InputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(Document, "write", full)
    with pytest.warns(VLMWarning, match=r"cannot write .*pairs\.json: No space left on device: it is found again if"):
        assert diagnosis._once(tmp_path, "pairs", lambda **asked: {"points": 1.0}, seed=0) == {"points": 1.0}
