"""The oracle that chooses modules by task label: each sample goes to its own task's module under every label space."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from quick import one_each
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.routing import routing_scores
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training.data import images_of
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 48, "n_test": 60, "n_held_out": 8, "n_reference": 8}


def stream(kind: str):
    if kind == "pairs":
        return picturebook.pairs(domains=("sketch", "night"), **SIZES)
    if kind == "domains":
        return picturebook.domain_incremental(domains=("sketch", "night"), **SIZES)
    return picturebook.mtil_like(order=("sketches", "night"), label_space=kind, **SIZES)


@torch.no_grad()
def by_hand(model, benchmark, module_of) -> tuple[list[float], list[list[int]]]:
    """Accuracy, or the mean of R@1 in both directions, of every task under a module of our choice, from the encoders
    alone; and the answers."""
    scores, answers = [], []
    for task, experience in enumerate(benchmark.test_stream):
        x, y, _ = next(iter(DataLoader(experience.dataset.eval(), 256)))
        with model.routed.pool.using(module_of(task)):
            images = F.normalize(model.encode_image_plain(images_of(x)), dim=1)
            if benchmark.label_space is None:
                ranks, own = model.encode_text(x.tokens) @ images.T, torch.arange(len(y))
                scores.append(sum((of.argmax(1) == own).double().mean().item() for of in (ranks, ranks.T)) / 2)
                answers.append(ranks.argmax(1).tolist())
                continue
            space = benchmark.label_space
            prompts = [F.normalize(model.encode_text(model.tokenize(p)), dim=1).mean(0) for p in space.prompts()]
            logits = images @ F.normalize(torch.stack(prompts), dim=1).T
            if space.visible == "task":
                outside = [c for c in range(len(space)) if c not in space.tasks[task]]
                logits[:, outside] = -math.inf
            scores.append((logits.argmax(1) == y).double().mean().item())
            answers.append(logits.argmax(1).tolist())
    return scores, answers


@pytest.mark.parametrize(
    ("kind",),
    one_each([(kind,) for kind in ("union", "task", "seen", "domains", "pairs")], ["union", "pairs"], quick=["union"]),
)
def test_each_sample_goes_to_its_own_tasks_module(kind):
    benchmark, model = stream(kind), tiny_vlm()
    outcome = run_experiment(
        benchmark,
        "lora",
        model=model,
        settings=TrainSettings(lr=1e-2, epochs=2, batch_size=16),
        task_id=True,
    )
    assert outcome.result["protocol"]["task_id_at_test"]
    assert model.routed.of_label == {0: "task_0", 1: "task_1"}
    last = outcome.result["matrix"][-1]
    own, answers = by_hand(model.eval(), benchmark, lambda task: f"task_{task}")
    assert [score / 100 for score in last] == pytest.approx(own, abs=0.5 / 60)
    # The modules differ, so that another choice would show: every sample to the last one, as it once was.
    _, of_last = by_hand(model, benchmark, lambda task: "task_1")
    assert sum(a != b for a, b in zip(answers[0], of_last[0], strict=True)) > 5
    scores = routing_scores(model, benchmark.test_stream)
    assert not math.isnan(scores.accuracy) and math.isnan(scores.out_of_distribution_let_in)
    assert routing_scores(model, benchmark.test_stream[:1]).accuracy == pytest.approx(
        _routed_to(model, benchmark.test_stream[0], "task_0")
    )


@torch.no_grad()
def _routed_to(model, experience, name: str) -> float:
    x, *_ = next(iter(DataLoader(experience.dataset.eval(), 256)))
    with model.evaluating():
        chosen = model.routed.route(F.normalize(model.encode_image_plain(images_of(x)), dim=1))
    return chosen.count(name) / len(chosen)
