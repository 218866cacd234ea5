"""The loss on earlier tasks: planted causes in a stream of classes, and what is kept of every step."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made import tiny as tiny_vlm
from quick import slow_but_for_some

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.blocks import blocks
from avalanche_vlm.studies.attribution import StepWeights, attribute_tasks
from avalanche_vlm.weights.average import snapshot

TASKS = ("sketches", "night", "fabrics")


@pytest.fixture(scope="module")
def stream():
    return picturebook.mtil_like(0, n_train=8, n_test=50, n_held_out=8, n_reference=8, order=list(TASKS))


@pytest.fixture(scope="module")
def tests(stream):
    return [experience.dataset.eval() for experience in stream.test_stream]


def answered(model, tests) -> list[np.ndarray]:
    """Whether each task's samples are answered right, by the model's own forward."""
    found = []
    with model.evaluating():
        for test in tests:
            x, y, t, *_ = zip(*test, strict=True)
            found.append((model(torch.stack(x), torch.tensor(t)).argmax(1) == torch.tensor(y)).double().numpy())
    return found


def turn(weight: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    n = weight.shape[1]
    with torch.no_grad():
        weight.copy_(weight @ torch.linalg.qr(torch.randn(n, n, generator=generator))[0].to(weight))


def shake(model, *names: str, amount: float = 1.5) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = dict(model.clip.named_parameters())
    with torch.no_grad():
        for block in names:
            for name in blocks(model)[block]:
                weights[name] += amount * weights[name].std() * torch.randn(weights[name].shape, generator=generator)


def after(stream, tests, changes, label_space="task", folder=None):
    """A model that knows the tasks, to which something happens after each: with what attribution is given."""
    model = tiny_vlm().set_label_space(stream.label_space.with_visible(label_space))
    start = snapshot(model.clip.state_dict())
    steps, right = StepWeights(model, start, folder), {}
    for step, (experience, change) in enumerate(zip(stream.train_stream, changes, strict=True), start=1):
        model.train()
        model.adaptation(experience)
        model.eval()
        change(model)
        right |= {(step, task): of for task, of in enumerate(answered(model, tests))}
        if step < len(tests):
            steps.keep(step)
    return model, steps, right


def nothing(model) -> None: ...


PLANTED = {
    "rotation": (lambda model: turn(model.clip.visual.proj), "drift", None),
    "noise on a block": (lambda model: shake(model, "image.2"), "interference", "image.2"),
    "noise everywhere": (lambda model: shake(model, *blocks(model), amount=0.4), "interference", None),
    "nothing": (nothing, "nothing lost", None),
}


@pytest.mark.parametrize("planted", slow_but_for_some(PLANTED, quick=["noise on a block"]))
def test_planted_causes_are_found_and_the_weights_are_as_before(planted, stream, tests):
    change, cause, module = PLANTED[planted]
    model, steps, right = after(stream, tests, (nothing, nothing, change))
    now = snapshot(model.state_dict())
    with steps:
        found = attribute_tasks(model, steps, tests, right, draws=500)
        if planted == "nothing":
            assert found == attribute_tasks(model, steps, tests, right, draws=500)
    assert (found["verdict"]["cause"], found["verdict"]["module"]) == (cause, module), found
    json.dumps(found, allow_nan=False)
    # The loss is the matrix's own, and with everything back it is gone.
    lost = np.mean([(right[task + 1, task] - right[3, task]).mean() for task in (0, 1)])
    assert found["lost"]["points"] == pytest.approx(100 * lost, abs=1e-3)
    assert found["interventions"][-1]["recovered"] == pytest.approx(100 * lost, abs=1e-3)
    assert found["before"] - found["trained"] == pytest.approx(found["lost"]["points"], abs=1e-3)
    assert "nothing that is put back" not in found["verdict"]["sentence"]
    if planted != "nothing":
        assert lost > 0.1 and f"Of {100 * lost:.1f} points lost on earlier tasks" in found["verdict"]["sentence"]
    assert all(torch.equal(value, now[name]) for name, value in model.state_dict().items() if name in now)


@pytest.mark.slow
def test_training_on_conflicting_labels_is_interference(stream, tests):
    """The last task has the first one's pictures, each with the next class in the place of its own."""
    x, y, t, *_ = zip(*tests[0], strict=True)
    x, t = torch.stack(x), torch.tensor(t)
    classes = sorted(stream.label_space.tasks[0])
    wrong = torch.tensor([classes[(classes.index(int(c)) + 1) % len(classes)] for c in y])

    def contradict(model):
        optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=3e-4)
        model.train()
        for _ in range(12):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x, t), wrong).backward()
            optimizer.step()
        model.eval()

    model, steps, right = after(stream, tests, (nothing, nothing, contradict))
    with steps:
        found = attribute_tasks(model, steps, tests, right, draws=500)
    assert found["lost"]["points"] > 20 and found["verdict"]["cause"] == "interference", found
    assert found["interventions"][-1]["recovered"] == pytest.approx(found["lost"]["points"], abs=1e-3)


@pytest.mark.slow
def test_every_task_is_compared_with_the_step_that_trained_it(stream, tests):
    """Damage that was there before a task was trained is no loss of that task's."""
    model, steps, right = after(stream, tests, (nothing, lambda m: shake(m, "image.1"), lambda m: shake(m, "image.3")))
    with steps:
        found = attribute_tasks(model, steps, tests, right, draws=200)
    alone = {of["block"]: of["recovered"] for of in found["modules"]}
    # By hand: each task with one block as it was after the step that trained it.
    pretrained = tiny_vlm().clip.state_dict()
    trained = snapshot(model.clip.state_dict())
    for block, of_tasks in (("image.1", (0,)), ("image.3", (0, 1))):
        recovered = []
        for task in (0, 1):
            with torch.no_grad():
                for name in blocks(model)[block] if task in of_tasks else ():
                    model.clip.state_dict()[name].copy_(pretrained[name])
            recovered.append(100 * (answered(model, tests)[task] - right[3, task]).mean())
            model.clip.load_state_dict(trained)
        assert alone[block] == pytest.approx(np.mean(recovered), abs=1e-3)


def test_classes_that_joined_since_are_told_from_weights():
    stream = picturebook.mtil_like(0, n_train=8, n_test=60, n_held_out=8, n_reference=8, order=["night", "sketches"])
    tests = [experience.dataset.eval() for experience in stream.test_stream]
    model, steps, right = after(stream, tests, (nothing, nothing), label_space="seen")
    met = model.competing.met.clone()
    with steps:
        found = attribute_tasks(model, steps, tests, right, draws=200)
    assert found["lost"]["points"] > 5 and found["verdict"]["cause"] == "competing classes"
    first, last = found["interventions"][0], found["interventions"][-1]
    assert first["undoes"] == "competing classes" and first["recovered"] == pytest.approx(found["lost"]["points"])
    assert last["recovered"] == 0 and "when only those classes compete that did then" in found["verdict"]["sentence"]
    assert torch.equal(model.competing.met, met)


@pytest.mark.slow
def test_few_pictures_are_drawn_and_their_answers_with_them(stream, tests):
    model, steps, right = after(stream, tests, (nothing, nothing, lambda m: shake(m, "image.2")))
    with steps:
        found = attribute_tasks(model, steps, tests, right, most=60, seed=4, draws=100)
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(4))[:20].sort().values.numpy()
    lost = np.mean([(right[task + 1, task] - right[3, task])[rows].mean() for task in (0, 1)])
    assert found["samples"] == 40 and found["lost"]["points"] == pytest.approx(100 * lost, abs=1e-3)


def written(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_step_keeps_what_differs_from_the_start_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = tiny_vlm()
    start = snapshot(model.clip.state_dict())
    with StepWeights(model, start) as steps:
        steps.keep(1)
        empty = written(tmp_path)
        with torch.no_grad():
            model.clip.visual.proj += 1
        steps.keep(2)
        size = written(tmp_path) - empty
        assert model.clip.visual.proj.nbytes <= size < 2 * model.clip.visual.proj.nbytes + 8192
        steps.keep(3)  # nothing moved: nothing is written twice
        assert written(tmp_path) - empty - size < model.clip.visual.proj.nbytes
        with steps.interventions(1).way_back():
            assert torch.equal(model.clip.visual.proj, start["visual.proj"])
        assert steps.interventions(1).changed == ["image.out"] and steps.interventions(2).changed == []
    assert not list(tmp_path.iterdir())


def test_another_process_goes_on_with_the_steps_of_a_folder(stream, tests, tmp_path):
    change = PLANTED["noise on a block"][0]
    model, _, right = after(stream, tests, (nothing, nothing, change), folder=tmp_path)
    start = snapshot(tiny_vlm().clip.state_dict())
    with StepWeights(model, start, tmp_path) as steps:
        for step in (1, 2):
            assert torch.equal(steps.met(step), StepWeights(model, start, tmp_path).met(step))
            assert steps.interventions(step).changed == ["image.2"]
        with pytest.raises(InputError, match="step-3"):
            steps.interventions(3)
    assert (tmp_path / "step-1.json").exists()
    found = attribute_tasks(model, StepWeights(model, start, tmp_path), tests, right, draws=100)
    assert found["verdict"]["module"] == "image.2"


def test_one_task_has_no_earlier_ones(tests):
    model = tiny_vlm()
    with pytest.raises(InputError, match="no label space"):
        attribute_tasks(model, StepWeights(model, {}), tests, {})
    model.set_label_space(picturebook.mtil_like(n_train=8, n_test=8, n_held_out=8, n_reference=8).label_space)
    with pytest.raises(InputError, match="two tasks or more"):
        attribute_tasks(model, StepWeights(model, {}), tests[:1], {})
