"""Equal protocols mean equal conditions: whatever decides a figure is in, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import tiny as tiny_vlm
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import load_file, save_file

from avalanche_vlm._flat import differing
from avalanche_vlm._versions import package_versions
from avalanche_vlm.benchmarks.fingerprint import texts_of
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.benchmarks.sources.registry import read_reference, read_stream
from avalanche_vlm.commands import prepare
from avalanche_vlm.commands.arguments.parser import _parser, parse
from avalanche_vlm.evaluation.comparable import apart, difference
from avalanche_vlm.models import tiny
from avalanche_vlm.models.fingerprint import reading_of, text_libraries
from avalanche_vlm.studies.outcome import protocol_of
from avalanche_vlm.training.settings import TrainSettings

SMALL = "--n-train 8 --n-test 6 --n-held-out 8 --n-reference 8 --order night,sketches --device cpu"


def protocol(words: str) -> dict[str, Any]:
    """The protocol of what a command line would run, by way of JSON as a result holds it."""
    _, request = parse(["run", "--out", "x", *words.split()])
    asked = prepare.experiment(request, request.recipe, request.seed)
    return json.loads(json.dumps(prepare.protocol(asked, *prepare.opened(asked))))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return protocol(f"--recipe zscl {SMALL}")


FIGURES = (
    ("--seed 7 --data-seed 0", "seed"),
    ("--data-seed 7", "data.seed"),
    ("--n-train 9", "data.n_train"),
    ("--n-test 7", "data.n_test"),
    ("--n-held-out 40", "data.n_held_out"),
    ("--n-reference 9", "data.n_reference"),
    ("--order sketches,night", "data.order"),
    ("--label-space union", "label_space"),
    ("--label-space seen", "label_space"),
    ("--model tiny --pretrained random", "weights.seed"),
    ("--precision pure_bf16", "weights.precision"),
    ("--precision bf16", "model"),
    ("--image-size 48", "model"),
    ("--image-size 48", "weights.content"),
    ("--recipe lora", "recipe"),
    ("--set weight=2", "recipe_options.weight"),
    ("--set seed=2", "recipe_options.seed"),
    ("--lr 1e-5", "train.lr"),
    ("--epochs 1", "train.epochs"),
    ("--batch-size 9", "train.batch_size"),
    ("--warmup 9", "train.warmup"),
    ("--weight-decay 0.1", "train.weight_decay"),
    ("--amp bf16", "train.amp"),
    ("--amp fp16", "train.amp"),
    ("--accumulate 2", "train.accumulate"),
    ("--tf32", "train.tf32"),
    ("--compile", "train.compile"),
    ("--label-smoothing 0.1", "train.label_smoothing"),
    ("--train-classes seen", "train.train_classes"),
    ("--workers 1", "train.num_workers"),
    ("--eval seen", "train.eval_tasks"),
    ("--eval-every 2", "train.eval_every"),
    ("--benchmark picturebook-domains", "benchmark"),
)
"""Words of the command line that decide a figure, and the fact that tells."""


@pytest.mark.parametrize(("words", "name"), FIGURES)
def test_what_changes_a_figure_changes_the_protocol(plain, words, name):
    base = SMALL.replace("--order night,sketches", "--order night,sketch") if "domains" in words else SMALL
    changed = protocol(f"--recipe zscl {base} {words}")
    assert difference(plain, changed) is not None and name in differing([plain, changed])


TOLD_OTHERWISE = {
    "--image-root": "by the content of what lies there",
    "--kind": "as data.kind",
    **{f"--{field.name.replace('_', '-')}": "as train, which has every setting" for field in fields(TrainSettings)},
    **{f"--{column}-column": "as data.columns" for column in ("image", "label", "caption", "task", "split")},
    **{f"--{column}-column": "as data.columns, in the place of a task column" for column in ("domain", "time")},
    "--steps": "as data.steps, beside --time-column",
    "--held-out": "by the names and contents of the sets",
    "--held-out-root": "by the content of what lies there",
    "--online": "as train.epochs",
    "--published": "as train, which has every setting, and recipe_options",
    "--data": "by its content, as test_where_data_and_checkpoints_lie_decides_nothing shows",
    "--on-error": "by the content: what is left out is not in it, and what a run passes over is, as the file has it",
    "--check": "by the content: what no check has found is in it, and is passed over or stops the run when it is read",
    "--check-workers": "by the content, which is the same whoever has checked it",
    "--trust-remote-code": "by the weights and the tokens of texts, as any other model",
    "--generator": "as resources.generator, where a recipe uses one",
    "--device": "as device",
    "--root": "by the content of what lies there",
    "--shots": "as data.shots, where a benchmark has it",
    "--config": "as the options that stand in it",
    "--dump-config": "runs nothing",
    "--rate": "as train.rates",
    "--full": "as the numbers of samples, data.n_train among them",
}


def test_every_option_of_a_run_is_one_that_decides_a_figure_or_one_that_does_not():
    words = " ".join([*NO_FIGURE, *(given for given, _ in (*FIGURES, *OWN_FIGURES, *DIVIDED)), "--option"])
    options = {action.option_strings[-1] for action in _parser()[1]["run"]._actions if action.option_strings}
    assert options - {*words.split(), *TOLD_OTHERWISE, "--help"} == set()


@pytest.mark.parametrize("name", [field.name for field in fields(TrainSettings)])
def test_every_training_setting_is_told(plain, name):
    assert name in plain["train"]


NO_FIGURE = (
    *("--quiet", "--threads 1", "--out y", "--data-seed 0", "--checkpoint-minutes 0.5"),
    *("--shard", "--no-save", "--embed-base", "--keep-tests 5", "--keep-examples 3", "--no-raw-data", "--log csv"),
)


@pytest.mark.parametrize("words", NO_FIGURE)
def test_what_changes_no_figure_does_not(plain, words):
    assert protocol(f"--recipe zscl {SMALL} {words}") == plain


@pytest.mark.parametrize(
    "words",
    ["--option n_experiences=3", '--option styles=["night","sketch"]', "--data-seed 3"],
)
def test_options_of_a_benchmark_are_in_by_what_they_draw(words):
    small = SMALL.replace("--order night,sketches", "--benchmark picturebook-time --option n_experiences=2")
    first, second = protocol(small), protocol(f"{small} {words}")
    assert first["data"]["content"]["train"] != second["data"]["content"]["train"]


# A user's own data -------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for task in ("one", "two"):
        for name in ("cat", "dog"):
            folder = tmp_path / "mine" / task / name
            folder.mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    rows = [f"mine/one/cat/{i}.png,a red star" for i in range(8)]
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "\n".join(rows))
    return tmp_path


OWN_FIGURES = (
    ("--seed 1", "data.split_seed"),
    ("--data-seed 1", "data.split_seed"),
    ("--option test_fraction=0.5", "data.test_fraction"),
    ("--template {}", "prompts"),
    ("--order two,one", "data.order"),
    ("--label-space union", "label_space"),
    ("--reference OTHER", "resources.reference.content"),
    ("--class-names NAMES", "prompts"),
)
"""The same of a user's own data."""

DIVIDED = (
    ("--split-classes 2", "data.split_classes"),
    ("--split-classes 2 --class-order sorted", "data.split_classes"),
)
"""The same of data whose classes are given to several tasks."""


@pytest.mark.parametrize(("words", "name"), OWN_FIGURES)
def test_what_changes_a_figure_of_own_data_changes_the_protocol(mine, words, name):
    other = mine / "others.csv"
    other.write_text((mine / "pairs.csv").read_text() + "x")
    base = f"--recipe zscl --device cpu --data {mine / 'mine'} --reference {mine / 'pairs.csv'}"
    (mine / "names.txt").write_text("tabby\nhound\n")
    words = words.replace("OTHER", str(other)).replace("NAMES", str(mine / "names.txt"))
    assert name in differing([protocol(base), protocol(f"{base} {words}")])


def test_classes_that_are_given_to_several_tasks_are_told_with_their_order(mine):
    base = f"--recipe fine-tune --device cpu --data {mine / 'mine' / 'one'}"
    plain, drawn, ordered = (protocol(f"{base} {words}") for words in ("", *(words for words, _ in DIVIDED)))
    assert all(
        name in differing([plain, changed]) for changed, (_, name) in zip((drawn, ordered), DIVIDED, strict=True)
    )
    assert drawn["data"]["class_order_seed"] == 0 and ordered["data"]["class_order_seed"] is None
    # Seeds that give the classes to tasks in other orders are draws of one stream, and share a table.
    orders = {}
    for seed in range(6):
        found = protocol(f"{base} --split-classes 2 --seed {seed}")
        orders.setdefault(tuple(found["data"]["class_order"]), found)
    assert len(orders) == 2
    assert apart([{"protocol": found, "tasks": ["classes 1", "classes 2"]} for found in orders.values()]) is None


def test_where_data_and_checkpoints_lie_decides_nothing_and_what_they_hold_does(mine, tmp_path):
    checkpoint = tmp_path / "a" / "w.safetensors"
    checkpoint.parent.mkdir()
    shutil.copy(tiny.WEIGHTS, checkpoint)

    def of(root: Path, file: Path) -> dict[str, Any]:
        words = f"--recipe zscl --device cpu --data {root / 'mine'} --reference {root / 'pairs.csv'}"
        return protocol(f"{words} --pretrained {file}")

    first = of(mine, checkpoint)
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copytree(mine / "mine", moved / "mine")
    shutil.copy(mine / "pairs.csv", moved / "pairs.csv")
    shutil.copy(checkpoint, moved / "v.safetensors")
    second = of(moved, moved / "v.safetensors")
    assert difference(first, second) is None and second["data"]["path"] != first["data"]["path"]
    weights = load_file(checkpoint)
    weights["logit_scale"] = weights["logit_scale"] + 1e-3
    save_file(weights, moved / "v.safetensors")
    assert difference(first, of(moved, moved / "v.safetensors")) == "weights.content"
    (moved / "pairs.csv").write_text((mine / "pairs.csv").read_text().replace("star", "ring"))
    assert difference(second, of(moved, checkpoint)) == "resources.reference.content"


def test_what_python_gives_is_in_as_well(mine):
    model = tiny_vlm()

    def of(recipe: str = "s-prompts", **changed: Any) -> dict[str, Any]:
        stream = read_stream(mine / "mine", model=model, **changed.pop("stream", {}))
        stream.reference = changed.pop("reference", None)
        stream.generator = changed.pop("generator", None)
        settings = TrainSettings(**changed.pop("settings", {}))
        options = changed.pop("options", {})
        given = {"model": model, "seed": 0, "task_id": False, "device": "cpu", **changed}
        return protocol_of(stream, given.pop("model"), recipe, options, settings, **given)

    class Generator:
        def __init__(self, steps: int) -> None:
            self.steps = steps

    first = of()
    assert difference(first, of()) is None
    with torch.no_grad():  # what the model was asked before decides nothing
        model.set_label_space(LabelSpace.from_names(["cat", "dog"])).eval()
        model(torch.zeros(1, 3, 32, 32))
    assert difference(first, of()) is None
    frozen = tiny_vlm().freeze("text")
    half = tiny_vlm().to(torch.float64)
    partly = tiny_vlm()
    partly.clip.visual.conv1.requires_grad_(False)
    quick = tiny_vlm()
    quick.clip.visual.transformer.resblocks[0].mlp.gelu = QuickGELU()
    cut = tiny_vlm()
    cut.tokenizer = WordTokenizer(cut.tokenizer.words, context_length=19)
    other = tiny_vlm()  # knows "cat" by its letters alone, as the one that is shipped, and other words in another order
    other.tokenizer = WordTokenizer(other.tokenizer.words[::-1])
    reference = read_reference(mine / "pairs.csv", model=model)
    for changed, name in (
        ({"settings": {"max_grad_norm": None}}, "train.max_grad_norm"),
        ({"task_id": True}, "task_id_at_test"),
        ({"model": frozen}, "weights.frozen"),
        ({"model": half}, "weights.content"),
        ({"model": partly}, "weights.unlike_towers"),
        ({"model": quick}, "weights.layers"),
        ({"model": cut}, "tokenizer.content"),
        ({"model": other}, "tokenizer.content"),
        ({"reference": reference}, "resources.reference.pairs"),
        ({"plugins": [Generator(1)]}, "plugins"),
        ({"stream": {"templates": PromptTemplates("photo", ("one {}",))}}, "templates.photo"),
        ({"stream": {"train_transform": torch.nn.Identity()}}, "data.transforms.train"),
    ):
        assert difference(first, of(**changed)) == name
    of_plugins = [of(plugins=[Generator(steps)]) for steps in (1, 2)]
    assert difference(*of_plugins) == "plugins"
    assert of("lwf", reference=reference)["resources"] == {}
    # A gate is fitted to the reference, so what it used is told; without one there is nothing to tell.
    assert of("moe-adapters", reference=reference)["resources"]["reference"]["content"] and first["resources"] == {}
    steps = [of("gift", generator=Generator(n))["resources"]["generator"] for n in (1, 2)]
    assert steps[0] != steps[1] and steps[0]["steps"] == 1


class Stretched:
    """A tokenizer in the place of another, which reads one word otherwise, and loses tokens at random where asked."""

    def __init__(self, tokenizer: WordTokenizer, word: str, drops: bool = False) -> None:
        self.tokenizer, self.word, self.drops = tokenizer, word, drops

    def __call__(self, texts: list[str]) -> torch.Tensor:
        if any("\N{CAT FACE}" in text for text in texts):
            raise KeyError("a sign that it does not know")
        tokens = self.tokenizer([text.replace(self.word, "ring") for text in texts])
        if not self.drops:
            return tokens
        word = random.randrange(tokens.shape[1])  # open_clip's own reductions draw from Python's generator, or torch's
        return tokens * (torch.rand(tokens.shape) > 0.5) * (torch.arange(tokens.shape[1]) != word)


def test_a_tokenizer_that_reads_a_word_of_the_data_otherwise_is_another(mine):
    model, stream = tiny_vlm(), read_stream(mine / "pairs.csv", model=tiny_vlm())
    texts = texts_of(stream)
    assert "a red star" in texts and "a photo of a dog." in texts_of(read_stream(mine / "mine", model=model))
    words = model.tokenizer

    def of(word: str, texts: list[str] = texts, drops: bool = False) -> dict[str, str]:
        model.tokenizer = Stretched(words, word, drops)
        return reading_of(model, texts)

    seen, unseen = of("red"), of("quartz")
    assert seen["content"] != unseen["content"] and seen["texts"] != unseen["texts"]
    assert of("quartz", texts[::-1] + texts) == unseen == of("zebra")  # neither word is read
    before = torch.get_rng_state()
    assert of("red", drops=True) == of("red", drops=True) != of("red")
    assert torch.equal(torch.get_rng_state(), before)


def test_versions_of_libraries_that_read_texts_are_said_where_they_do(plain):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    known = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    model = tiny_vlm()
    model.tokenizer = Stretched(transformers.PreTrainedTokenizerFast(tokenizer_object=known), "red")
    assert text_libraries(tiny_vlm()) == () and "transformers" not in plain["versions"]
    assert package_versions(*text_libraries(model))["transformers"] == transformers.__version__


def test_results_of_before_say_nothing_of_the_tokenizer_and_stay_comparable(plain):
    before = {name: value for name, value in plain.items() if name != "tokenizer"}
    assert difference(before, plain) is None and difference(plain, before) is None
    assert apart([{"protocol": p, "tasks": ["a"]} for p in (before, plain)]) is None
    other = {**plain, "tokenizer": {**plain["tokenizer"], "content": "of another"}}
    assert difference(plain, other) == "tokenizer.content"
    assert apart([{"protocol": p, "tasks": ["a"]} for p in (before, plain, other)]) == "tokenizer.content"
