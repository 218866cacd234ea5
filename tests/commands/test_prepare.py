"""From a request to an experiment, a model and a benchmark, without training anything."""

from __future__ import annotations

import json

import pytest

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks import registry
from avalanche_vlm.commands import prepare
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.requests import Experiment
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes

SMALL = "--n-train 8 --n-test 6 --n-held-out 8 --n-reference 8"


def asked(words: str, recipe: str = "fine-tune", seed: int = 0) -> Experiment:
    _, request = parse(words.split())
    return prepare.experiment(request, recipe, seed)


def test_an_experiment_says_every_default():
    found = asked("run --out x --recipe zscl", "zscl", 3)
    train, options = recipes.settings_for("zscl", "picturebook")
    assert (
        found.recipe_options == {**recipes.get("zscl").settings, **options} and found.recipe_options["interval"] == 10
    )
    assert (found.train.lr, found.train.epochs) == (train["lr"], train["epochs"])
    assert found.seed == 3 and found.device in ("cpu", "cuda") and "torch" in found.versions


def test_sizes_of_a_first_look_are_told_and_in_the_protocol():
    words = "compare --out x --n-test 6 --n-held-out 8 --n-reference 8 --order night"
    _, request = parse(words.split())
    told = "picturebook in the sizes of a first look: n_train 160 (--full takes 640)"
    assert prepare.quick_sizes(request) == told
    _, stream = prepare.opened(prepare.experiment(request, "fine-tune", 0))
    assert len(stream.train_stream[0].dataset) == stream.protocol["n_train"] == 160
    for words in ("--full", f"--benchmark picturebook-time {SMALL}", "--data mine"):
        assert prepare.quick_sizes(parse(f"run --out x {words}".split())[1]) is None


def test_what_was_typed_goes_before_the_defaults():
    words = "run --out x --lr 1 --warmup 0 --amp bf16 --workers 2 --set weight=3 --set zscl.seed=4"
    found = asked(words + " --recipe zscl", "zscl")
    assert (found.train.lr, found.train.warmup, found.train.amp, found.train.num_workers) == (1, 0, "bf16", 2)
    assert found.recipe_options["weight"] == 3 and found.recipe_options["seed"] == 4
    # In a comparison an option is for every recipe that has it, and for one alone where it is named.
    words = "compare --out x --recipes zscl,lora --set rank=2 --set zscl.seed=5"
    assert asked(words, "lora").recipe_options["rank"] == 2 and asked(words, "zscl").recipe_options["seed"] == 5
    with pytest.raises(InputError, match="--set rank=2: recipe fine-tune has no option 'rank'; it has none"):
        asked("compare --out x --recipes fine-tune,replay --set rank=2")
    for words in ("run --recipe lwf", "compare --recipes lwf,fine-tune", "advise --recipes lwf,fine-tune"):
        with pytest.raises(InputError, match=r"--set zscl\.weight=-3: recipe zscl is not asked for, only lwf"):
            asked(f"{words} --out x --set zscl.weight=-3", "lwf")
    with pytest.raises(InputError, match="no recipe is called 'zcsl'"):
        asked("run --out x --set zcsl.weight=2")


@pytest.mark.parametrize("recipe", ["fine-tune", "zscl", "lora", "s-prompts", "replay"])
def test_an_experiment_is_the_same_after_it_was_stored(recipe):
    first = asked(f"run --out x --recipe {recipe} --order night,digits --template {{}} {SMALL}", recipe)
    again = Experiment.model_validate(json.loads(json.dumps(first.stored())))
    assert again.stored() == first.stored() and again.train == first.train and again.stream == first.stream


def test_a_recipe_without_its_resource_is_known_before_anything_is_read():
    with pytest.raises(InputError, match="recipe zscl needs what mine does not bring, reference pairs: give some with"):
        asked("run --out x --data mine --recipe zscl", "zscl")
    assert asked("run --out x --data mine --recipe zscl --reference pairs.csv", "zscl").stream.reference == "pairs.csv"


def test_options_of_a_benchmark_reach_it():
    found = asked(f"run --out x --benchmark picturebook-time --option n_experiences=3 {SMALL}")
    _, stream = prepare.opened(found)
    assert len(stream.task_names) == 3 and stream.protocol["n_train"] == 8
    # What is called `domains` there is the order of the tasks everywhere.
    found = asked(f"run --out x --benchmark picturebook-domains --order night,sketch {SMALL}")
    assert prepare.opened(found)[1].task_names == ("night", "sketch")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--benchmark picturebook-time --order a,b", "--order does not apply to picturebook-time"),
        ("--benchmark picturebook-time --label-space task", "--label-space does not apply to picturebook-time"),
        ("--option colour=red", "benchmark picturebook has no option 'colour'; it has seed, "),
        ("--template {}", "--template does not apply to picturebook, only to --data"),
        ("--data tests --n-test 3", "--n-test does not apply to --data"),
        ("--data tests --option colour=red", "tests, a class-folder, has no option 'colour'"),
    ],
)
def test_an_option_that_would_go_unheeded_is_refused(words, sentence, monkeypatch):
    monkeypatch.chdir(benchmarks.__path__[0] + "/../..")
    found = asked(f"run --out x {words}")
    with pytest.raises(InputError, match=sentence):
        prepare.opened(found)


def test_a_benchmark_from_outside_runs_under_its_name(monkeypatch):
    monkeypatch.setattr(registry.BENCHMARKS, "_registered", dict(registry.BENCHMARKS._known))

    @benchmarks.register("nights", kind="classes", summary="one night", label_spaces=("task", "union"), order=None)
    def nights(seed=0, *, label_space="task", moons=1, train_transform=None, eval_transform=None, tokenizer=None):
        sizes = {"n_train": moons * 8, "n_test": 6, "n_held_out": 8, "n_reference": 8}
        return benchmarks.picturebook.mtil_like(
            seed,
            order=["night"],
            label_space=label_space,
            train_transform=train_transform,
            eval_transform=eval_transform,
            tokenizer=tokenizer,
            **sizes,
        )

    found = asked("run --out x --benchmark nights --option moons=2 --label-space union --seed 4", seed=4)
    _, stream = prepare.opened(found)
    assert stream.protocol["n_train"] == 16 and stream.protocol["seed"] == 4 and stream.label_space.visible == "union"


@pytest.mark.parametrize("option", ["model", "name", "tokenizer", "train_transform", "called"])
def test_what_the_command_gives_is_no_option_of_a_benchmark(option):
    with pytest.raises(InputError, match=f"--option {option} does not apply to picturebook"):
        prepare.opened(asked(f"run --out x --option {option}=3 {SMALL}"))


def test_data_of_which_nothing_is_drawn_takes_no_seed(monkeypatch):
    monkeypatch.setattr(registry.BENCHMARKS, "_registered", dict(registry.BENCHMARKS._known))

    @benchmarks.register("fixed", kind="classes", summary="always the same", order=None)
    def fixed():
        return benchmarks.create("picturebook", n_train=8, n_test=6, n_held_out=8, n_reference=8)

    _, stream = prepare.opened(asked("run --out x --benchmark fixed", seed=5))
    assert len(stream.task_names) == 8
    with pytest.raises(InputError, match="--data-seed does not apply to fixed, which draws nothing"):
        prepare.opened(asked("run --out x --benchmark fixed --data-seed 5"))


def test_the_data_have_the_seed_of_the_training_or_one_of_their_own():
    found = asked(f"run --out x {SMALL} --seed 3", seed=3)
    assert found.data_seed == 3 and prepare.opened(found)[1].protocol["seed"] == 3
    found = asked(f"run --out x {SMALL} --seed 3 --data-seed 0", seed=3)
    assert (found.seed, found.data_seed) == (3, 0) and prepare.opened(found)[1].protocol["seed"] == 0


def test_rates_go_with_the_model():
    """At the rate for pretrained towers the tiny model does not move; a pretrained tower breaks at the tiny one's."""
    tuned = {name: recipes.get(name).picturebook for name in ("fine-tune", "lora", "keeplora")}
    for name, of in tuned.items():
        own = asked(f"run --out x --data pictures --recipe {name}", name)
        assert own.train.lr == asked(f"run --out x --recipe {name}", name).train.lr == (of.lr if of else 5e-4)
        large = f"--recipe {name} --model ViT-B-16 --pretrained openai"
        published = recipes.settings_for(name, "data")[0]["lr"]
        assert asked(f"run --out x --data pictures {large}", name).train.lr == published < own.train.lr
        assert asked(f"run --out x {large}", name).train.lr == published
    assert asked("run --out x --model ViT-B-16").train.epochs == 5
    assert asked("run --out x --data pictures --lr 3e-4").train.lr == 3e-4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--data pictures",
            "the tiny model knows the pictures and words of the picturebook alone: expect it to start at",
        ),
        ("--data pictures --model ViT-B-16 --pretrained openai", None),
        ("--data pictures --pretrained mine.safetensors", None),
        ("--benchmark picturebook-pairs", None),
        ("", None),
    ],
)
def test_the_tiny_model_on_ones_own_data_is_remarked_before_anything_is_read(words, said):
    for command in ("run", "compare", "advise"):
        found = prepare.knows_nothing_of(parse(f"{command} --out x {words}".split())[1])
        assert (found is None) if said is None else found.startswith(said) and "pictures" in found


def test_passes_that_are_asked_for_go_before_iterations_of_before_and_one_rate_before_several():
    before = {"epochs": 5, "iterations": 1000, "lr": 1e-3, "rates": {"a": 1e-5}, "batch_size": 8}
    for words, changed in (
        ("", {}),
        ("--epochs 3", {"epochs": 3, "iterations": None}),
        ("--iterations 7", {"iterations": 7}),
        ("--lr 1e-4", {"lr": 1e-4, "rates": None}),
    ):
        _, request = parse(["run", "--out", "x", *words.split()])
        assert prepare.changed_by(request, before) == {**before, "num_workers": 0, **changed}, words
