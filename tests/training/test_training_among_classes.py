"""What training knows of classes: no recipe sees those of a task to come, under any label space."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mini import shallow
from quick import QUICK, one_each
from recording import naive

from avalanche_vlm.benchmarks.label_space import PromptTemplates, join_tasks
from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator
from avalanche_vlm.benchmarks.picturebook.scenes import NAMES
from avalanche_vlm.benchmarks.scenario import ImageDataset, ReferencePairs, VLMBenchmark, as_experience_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.models import MASKED, VLM
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins.base import VLMPlugin, classes_needed
from avalanche_vlm.training.plugins.nearest_mean import NearestMeanPlugin
from avalanche_vlm.training.plugins.replay import ExemplarReplayPlugin
from avalanche_vlm.training.settings import TrainSettings

WORDS = NAMES["object"][:6]
"""Names of classes, a pair for each of three tasks; no reference caption has one."""

N = 12


class Drawing(PicturebookGenerator):
    """Keeps the captions that it draws."""

    drawn: list[str]

    def __call__(self, captions, *args, **options):
        self.drawn = [*getattr(self, "drawn", []), *captions]
        return super().__call__(captions, *args, **options)


def stream(visible: str) -> VLMBenchmark:
    model, draw = shallow(), torch.Generator().manual_seed(0)
    template = PromptTemplates("plain", ("a {}",))
    tasks = [(f"task {t}", WORDS[2 * t : 2 * t + 2], template) for t in range(3)]

    def data(task: int, n: int):
        images = torch.randint(0, 255, (n, 3, 32, 32), generator=draw, dtype=torch.uint8)
        ids = ImageDataset(images, [2 * task + i % 2 for i in range(n)])
        return as_experience_data(ids, model.transforms.train, model.transforms.eval, task)

    pictures = torch.randint(0, 255, (24, 3, 32, 32), generator=draw, dtype=torch.uint8)
    captions = tuple(f"a {colour} shape" for colour in (NAMES["colour"] * 24)[:24])
    return VLMBenchmark(
        "words",
        "classes",
        [data(t, N) for t in range(3)],
        [data(t, 4) for t in range(3)],
        label_space=join_tasks(tasks, visible),
        task_names=[name for name, *_ in tasks],
        reference=ReferencePairs(pictures, captions, model.transforms.eval),
        generator=Drawing(),
    )


class Watch(VLMPlugin):
    """Every class whose word the text tower reads, whose prompts a method asks for or whose picture it has drawn while
    an experience trains; and every column that competes."""

    def __init__(self, model, generator: Drawing, monkeypatch) -> None:
        super().__init__()
        self.prompts = [model.tokenize([f"a {word}"])[0] for word in WORDS]
        self.generator = generator
        self.step: int | None = None
        self.read: dict[int, set[int]] = {}
        self.competed: dict[int, set[int]] = {}
        model.clip.token_embedding.register_forward_pre_hook(self._tokens)
        for asked in ("prompt_features", "prompts"):
            monkeypatch.setattr(VLM, asked, self._asking(getattr(VLM, asked)))

    def _asking(self, method):
        def asked(model, classes):
            if self.step is not None:
                self.read.setdefault(self.step, set()).update(classes.tolist())
            return method(model, classes)

        return asked

    def _tokens(self, module, given) -> None:
        if self.step is not None:
            rows = given[0]
            found = (c for c, prompt in enumerate(self.prompts) if bool((rows == prompt[: rows.shape[1]]).all(1).any()))
            self.read.setdefault(self.step, set()).update(found)

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.generator.drawn = []

    def before_train_dataset_adaptation(self, strategy, **kwargs) -> None:
        self.step = strategy.experience.current_experience

    def after_forward(self, strategy, **kwargs) -> None:
        columns = (strategy.mb_output > MASKED / 2).any(0).nonzero()[:, 0].tolist()
        self.competed.setdefault(self.step, set()).update(columns)

    def after_training_exp(self, strategy, **kwargs) -> None:
        drawn = " ".join(getattr(self.generator, "drawn", [])).split()
        self.read.setdefault(self.step, set()).update(c for c, word in enumerate(WORDS) if word in drawn)
        self.step = None


@pytest.fixture
def watched(monkeypatch):
    return partial(_watched, monkeypatch)


def _watched(monkeypatch, name: str, visible: str, **settings) -> Watch:
    benchmark, model = stream(visible), shallow()
    watch = Watch(model, benchmark.generator, monkeypatch)
    run_experiment(
        benchmark,
        name,
        model=model,
        settings=TrainSettings(lr=1e-4, epochs=1, batch_size=N, **settings),
        plugins=[watch],
        evaluate=False,
    )
    return watch


def old_and_new(step: int) -> set[int]:
    return set(range(2 * step + 2))


CASES = [(name, visible) for name in recipes.list(kind="classes") for visible in ("task", "seen", "union")]


@pytest.mark.parametrize(("name", "visible"), one_each(CASES, quick=QUICK))
def test_no_recipe_reads_or_competes_with_classes_of_a_task_to_come(watched, name, visible):
    watch = watched(name, visible)
    for step, read in watch.read.items():
        assert read <= old_and_new(step), f"the names {[WORDS[c] for c in read - old_and_new(step)]} are of the future"
    assert set(watch.competed) <= {0, 1, 2}
    for step, competed in watch.competed.items():
        assert competed <= old_and_new(step)
        assert {2 * step, 2 * step + 1} <= competed  # its own do


@pytest.mark.parametrize("visible", ["seen", "union"])
def test_the_current_tasks_classes_compete_and_all_that_were_met_on_demand(watched, visible):
    assert watched("fine-tune", visible).competed == {0: {0, 1}, 1: {2, 3}, 2: {4, 5}}
    assert watched("fine-tune", visible, train_classes="seen").competed == {
        0: {0, 1},
        1: {0, 1, 2, 3},
        2: set(range(6)),
    }


@pytest.mark.parametrize("visible", ["seen", "union"])
def test_replayed_samples_bring_the_classes_of_their_tasks(watched, visible):
    assert watched("replay", visible).competed == {step: old_and_new(step) for step in range(3)}


@pytest.mark.parametrize("name", recipes.list(kind="classes"))
def test_what_a_recipe_declares_is_what_its_plugins_ask_for(name):
    benchmark, model = stream("union"), shallow()
    model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    plugins = recipes.build(name, model=model, **resources)
    assert (classes_needed(plugins) or "current") == recipes.get(name).train_classes
    assert model.competing.in_training == "current"  # which nobody changes but the first callback of a training


class NeedsSeen(VLMPlugin):
    train_classes = "seen"


class NeedsCurrent(VLMPlugin):
    train_classes = "current"


def run(name: str, plugins=(), model=None, **settings):
    model = model or shallow()
    settings = TrainSettings(lr=1e-4, epochs=1, batch_size=N, **settings)
    outcome = run_experiment(stream("union"), name, model=model, settings=settings, plugins=plugins, evaluate=False)
    return model, outcome.result["protocol"]["train"]["train_classes"]


def test_what_a_plugin_beside_the_recipe_needs_is_done_and_told():
    model, memory = shallow(), ExemplarMemory(2**16)
    _, told = run("fine-tune", [ExemplarReplayPlugin(model, memory), NearestMeanPlugin(model, memory)], model)
    assert told == model.competing.in_training == "seen"
    model, told = run("fine-tune", [NeedsCurrent()])
    assert told == model.competing.in_training == "current"


@pytest.mark.parametrize(
    ("name", "plugins", "settings", "sentence"),
    [
        ("fine-tune", [NeedsSeen()], {"train_classes": "current"}, "a plugin beside the recipe needs all classes met"),
        ("fine-tune", [NeedsCurrent()], {"train_classes": "seen"}, "leave train_classes at current"),
        (
            "fine-tune",
            [NeedsSeen(), NeedsCurrent()],
            {},
            "NeedsSeen needs all .* and NeedsCurrent those of",
        ),
        ("icarl", [NeedsCurrent()], {}, "recipe icarl needs all .* cannot have both"),
    ],
)
def test_needs_that_contradict_are_refused(name, plugins, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        run(name, plugins, **settings)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_recipe_that_does_not_declare_its_classes_is_refused(by_hand):
    @recipes.recipe("undeclared", family="none", summary="asks for all classes and does not say so")
    def undeclared(model: VLM) -> list:
        if by_hand:
            model.competing.in_training = "seen"
        return [] if by_hand else [NeedsSeen()]

    try:
        with pytest.raises(InputError, match=r"recipe undeclared lets other classes compete .*train_classes='seen'"):
            run("undeclared")
    finally:
        recipes.forget("undeclared")


def test_a_plugin_has_its_classes_in_a_stock_strategy_too():
    benchmark, model = stream("union"), shallow()
    strategy = naive(model, [NeedsSeen()])
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert model.competing.in_training == "seen"
    with pytest.raises(InputError, match="cannot have both"):
        naive(shallow(), [NeedsSeen(), NeedsCurrent()]).train(benchmark.train_stream[0])


def test_a_method_that_needs_all_classes_met_is_not_run_without(watched):
    with pytest.raises(InputError, match="recipe icarl needs all classes met so far in training"):
        watched("icarl", "union", train_classes="current")


def test_smoothing_and_classes_are_no_settings_of_captions(tiny_pairs):
    for wrong in ({"label_smoothing": 0.1}, {"train_classes": "seen"}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is about class labels"):
            run_experiment(tiny_pairs, "fine-tune", model=shallow(), settings=TrainSettings(**wrong))


@pytest.mark.parametrize("wrong", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"train_classes": "all"}])
def test_settings_that_there_are_not_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TrainSettings(**wrong)
