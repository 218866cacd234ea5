"""The texts that stand for classes in a training step: how many are encoded, and which."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mini import mini
from quick import LESS, one_each

from avalanche_vlm.benchmarks.label_space import PromptTemplates, join_tasks
from avalanche_vlm.benchmarks.scenario import ImageDataset, VLMBenchmark, as_experience_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.strategies import VLMNaive

WORDS = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
THREE = ("a {}", "there is a {}", "a picture of a {}")


def stream(templates=THREE, visible="seen", words=WORDS) -> VLMBenchmark:
    """Two tasks of four classes, sixteen pictures each."""
    model, draw = mini(), torch.Generator().manual_seed(0)
    half = len(words) // 2

    def data(task: int, n: int):
        images = torch.randint(0, 255, (n, 3, 32, 32), generator=draw, dtype=torch.uint8)
        ids = ImageDataset(images, [half * task + i % half for i in range(n)])
        return as_experience_data(ids, model.transforms.train, model.transforms.eval, task)

    tasks = [(f"task {t}", words[half * t : half * (t + 1)], PromptTemplates("three", templates)) for t in range(2)]
    train, test = [data(t, 16) for t in range(2)], [data(t, 8) for t in range(2)]
    names = [name for name, *_ in tasks]
    return VLMBenchmark("words", "classes", train, test, label_space=join_tasks(tasks, visible), task_names=names)


def trained(benchmark: VLMBenchmark, recipe="fine-tune", evaluate=False, **settings):
    model = mini()
    outcome = run_experiment(
        benchmark,
        recipe,
        model=model,
        settings=TrainSettings(**{"lr": 1e-3, "epochs": 1, "batch_size": 4, **settings}),
        options=LESS.get(recipe),
        evaluate=evaluate,
    )
    return model, outcome


@pytest.fixture
def encoded(monkeypatch) -> list[tuple[bool, int]]:
    """Of each pass through a text tower whether it was of a step, and how many texts it had."""
    found: list[tuple[bool, int]] = []
    step, encode, within = VLMNaive.forward, VLM.encode_text, [False]

    def forward(strategy):
        within[0] = strategy.is_training
        try:
            return step(strategy)
        finally:
            within[0] = False

    def encode_text(model, text, **options):
        found.append((within[0], len(text)))
        return encode(model, text, **options)

    monkeypatch.setattr(VLMNaive, "forward", forward)
    monkeypatch.setattr(VLM, "encode_text", encode_text)
    return found


CASES = [(name, None) for name in recipes.list(kind="classes", needs=())]
STANDING = ("lwf", "text-replay", "lora", "proof")


@pytest.mark.parametrize(("name", "_"), one_each(CASES, STANDING, STANDING))
def test_the_first_template_trains_as_if_there_were_no_other(name, _):
    of_first, outcome = trained(stream(), name, train_templates="first")
    of_one, _ = trained(stream(THREE[:1]), name)
    weights = of_one.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in of_first.state_dict().items() if torch.is_tensor(w))
    assert outcome.result["protocol"]["train"]["train_templates"] == "first"
    # At test all templates stand for a class, whatever trained.
    classes = torch.arange(len(WORDS))
    with of_first.evaluating(), of_one.evaluating():
        averaged, alone = of_first.prompt_features(classes), of_one.prompt_features(classes)
        plain = [of_first.class_features(stream((text,)).label_space) for text in THREE]
    mean = torch.nn.functional.normalize(torch.stack(plain).mean(0), dim=1)
    torch.testing.assert_close(averaged, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(alone, plain[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 12),
        ({"train_templates": "first"}, 4),
        ({"train_classes": "seen"}, 24),
        ({"train_classes": "seen", "train_templates": "first", "negatives": 2, "batch_size": 2}, 4),
        ({"train_classes": "seen", "negatives": 1, "batch_size": 2}, 9),
    ],
)
def test_a_step_encodes_no_more_texts_than_it_needs(encoded, settings, most):
    trained(stream(), **settings)
    steps = [texts for of_step, texts in encoded if of_step]
    assert len(steps) == 32 // settings.get("batch_size", 4) and max(steps) == most


def test_negatives_that_are_all_train_to_the_bit_as_without():
    with_all, _ = trained(stream(), train_classes="seen", negatives=8)
    without, _ = trained(stream(), train_classes="seen")
    some, _ = trained(stream(), train_classes="seen", negatives=1)
    weights = without.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in with_all.state_dict().items() if torch.is_tensor(w))
    assert not torch.equal(some.state_dict()["clip.visual.conv1.weight"], weights["clip.visual.conv1.weight"])


@pytest.mark.parametrize("name", ["proof", "lada"])
def test_negatives_are_refused_where_all_classes_are_needed(name):
    with pytest.raises(InputError, match="Plugin needs all classes that compete in a step, and negatives lets some"):
        trained(stream(), name, negatives=1)


def test_settings_of_class_prompts_are_refused_where_they_mean_nothing():
    with pytest.raises(InputError, match="train_templates must be all or first, not 'last'"):
        TrainSettings(train_templates="last")
    with pytest.raises(InputError, match="negatives: 0 is not a whole number of 1 or more"):
        TrainSettings(negatives=0)
    with pytest.raises(InputError, match="label_smoothing spreads a share over all classes"):
        TrainSettings(negatives=2, label_smoothing=0.1)
    for given in ({"train_templates": "first"}, {"negatives": 2}):
        with pytest.raises(InputError, match=f"{next(iter(given))} is about class labels, and the stream is one of"):
            settled(replace(TrainSettings(), **given), "fine-tune", "pairs")
