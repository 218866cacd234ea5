"""Files of ``--config``: every option of every command, what is refused, sweeps, and results that run again."""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import SMALL, read

from avalanche_vlm import cli
from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.arguments import parse, parser, values
from avalanche_vlm.commands.arguments.configuration import ASSIGNED, KEPT, MOST_RUNS, SWEPT
from avalanche_vlm.commands.requests import ModelRequest, RunRequest, StreamRequest
from avalanche_vlm.commands.requests.experiment import LATER, REQUEST, Experiment, run_id_of
from avalanche_vlm.commands.requests.stored import NAMES, as_configuration, read_stored, write_stored
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.yaml_files import parse_yaml, plain_types, yaml_text
from avalanche_vlm.training.settings import TrainSettings

ROOT = Path(__file__).parents[2]
PARSER = cache(parser._parser)


@pytest.fixture(autouse=True)
def built_once(monkeypatch):
    """The parser, which every line builds anew and a thousand lines here need once."""
    monkeypatch.setattr(parser, "_parser", PARSER)


TEXTS = st.one_of(
    st.text(min_size=1, max_size=8),
    st.sampled_from(
        ("no", "null", "1e-3", "3", "-x", "--out", "a: b", "# x", "[1]", "é\u2028\x07", "a\udc80", "~", "''")
    ),
)
NAMES_OF = TEXTS.filter(lambda text: "=" not in text and text.strip() == text)


def words_of(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    """Words that give one option, or nothing."""
    option = action.option_strings[-1] if action.option_strings else ""
    if action.nargs == 0:
        return st.sampled_from(([], [option]))
    if action.choices is not None:
        value = st.sampled_from(sorted(action.choices))
    elif isinstance(action.type, values.NumberWord):
        number = action.type.number
        low, high = number.least, min(number.most, 10**6)
        value = (
            st.integers(int(low), int(high)).map(str)
            if number.whole
            else st.floats(low, high, exclude_min="(" in number.open, exclude_max=")" in number.open).map(repr)
        )
        if number.each:
            value = st.sampled_from(("1", "2", "8"))
        if number.none:
            value |= st.just("none")
        if action.type.several:
            value = st.lists(value, min_size=1, max_size=3).map(",".join)
    elif action.type is values.names:
        value = st.lists(NAMES_OF.filter(lambda text: "," not in text), min_size=1, max_size=3).map(",".join)
    elif action.dest in ("set", "option"):
        value = st.tuples(NAMES_OF, TEXTS).map("=".join)
    elif action.dest == "rate":
        value = st.tuples(TEXTS, st.sampled_from(("1e-3", "0.5"))).map("=".join)
    else:
        value = TEXTS
    if not option:
        return value.filter(lambda text: not text.startswith("-")).map(lambda text: [text])
    if action.nargs == "+":
        plain = value.filter(lambda text: not text.startswith("-"))
        return st.one_of(st.just([]), st.lists(plain, min_size=1, max_size=3).map(lambda texts: [option, *texts]))
    several = 3 if isinstance(action, argparse.Action) and type(action).__name__ == "_AppendAction" else 1
    return st.lists(value.map(lambda text: f"{option}={text}"), max_size=several)


@cache
def lines(command: str) -> st.SearchStrategy[list[str]]:
    """Command lines of a command, whether they can be meant or not."""
    own = PARSER()[1][command]
    never = ("help", "config", "dump_config", "trust_remote_code")
    actions = [action for action in own._actions if action.dest not in never]
    named = [words_of(action) for action in actions if action.option_strings]
    places = [words_of(action) for action in actions if not action.option_strings]
    some = st.lists(st.sampled_from(range(len(named))), max_size=5, unique=True) if named else st.just([])
    drawn = some.flatmap(lambda which: st.tuples(*(named[i] for i in which)))
    return st.tuples(drawn, st.tuples(*places)).map(
        lambda both: [command, *(word for words in (*both[1], *both[0]) for word in words)]
    )


def meant(words: list[str]):
    """The request of a line; None if it is refused."""
    try:
        return parse(words)
    except (InputError, SystemExit):
        return None


def dumped(words: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        parse([*words, "--dump-config"])
    assert end.value.code == 0
    return capsys.readouterr().out


COMMANDS = sorted(PARSER()[1])
MINIMAL = {
    "run": ["--out", "x"],
    "compare": ["--out", "x"],
    "advise": ["--out", "x"],
    "update": ["x", "--data", "y"],
    "diagnose": ["x"],
    "predict": ["m", "a"],
    "retrieve": ["m", "--images", "a", "--query", "b"],
    "export": ["m", "--to", "peft", "--out", "x"],
    "serve": ["m"],
    "report": ["x"],
    "versions": ["x"],
    "rollback": ["x", "v1"],
    "diff": ["x", "v1", "v2"],
    "list": ["recipes"],
    "doctor": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_lines_of_every_command_are_the_same_from_a_file(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = 0

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(lines(command))
    def check(words):
        nonlocal found
        if (there := meant(words)) is None:
            words = [command, *MINIMAL[command], *(word for word in words[1:] if word.startswith("--"))]
            there = meant(words)
        if there is None or "--" in words:
            return
        (tmp_path / "f.yaml").write_text(dumped(words, capsys))
        assert parse([command, "--config", "f.yaml"]) == there
        assert dumped([command, "--config", "f.yaml"], capsys) == (tmp_path / "f.yaml").read_text()
        found += 1

    check()
    assert found >= 3


def sample(action: argparse.Action) -> list[str]:
    """One value of an option that is not its default."""
    option = action.option_strings[-1]
    if action.nargs == 0:
        return [option]
    if action.choices is not None:
        return [option, next(of for of in action.choices if of != action.default)]
    if isinstance(action.type, values.NumberWord):
        number = action.type.number
        return [option, str(max(1, int(number.least))) if number.open == "" or number.whole else "0.25"]
    assigned = {"set": "rank=2", "option": "styles=night", "rate": "night=0.5", "sbatch": "account=lab"}
    return [option, assigned.get(action.dest, "a.csv")]


EVERY = [
    (name, action)
    for name, own in PARSER()[1].items()
    for action in own._actions
    if action.option_strings and action.dest not in ("help", "config", "dump_config", "trust_remote_code")
]


@pytest.mark.parametrize(("command", "action"), EVERY, ids=lambda of: getattr(of, "dest", of))
def test_every_option_is_in_the_file_under_its_name(command, action, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a\n")
    base = list(MINIMAL[command])
    beside = {
        "embed_base": ["--save-models"] if command == "compare" else [],
        "held_out_root": ["--held-out", "imagenet"],
        "image": ["--texts", "a.csv"],
        "texts": ["--image", "a.png"],
        "experience": ["--benchmark", "mtil"],
        **{of: ["--engine", "ray"] for of in ("address", "gpus")},
        **{of: ["--engine", "slurm"] for of in ("partition", "job_minutes", "job_memory", "sbatch")},
    }.get(action.dest, [])
    if action.dest in ("image", "texts"):
        base = ["m"]
    if action.dest in ("data", "benchmark", "experience") and command == "update":
        base = ["x"]
    words = [command, *base, *beside, *sample(action)]
    text = dumped(words, capsys)
    assert f"\n{action.option_strings[-1][2:]}:" in text
    (tmp_path / "f.yaml").write_text(text)
    assert parse([command, "--config", "f.yaml"]) == parse(words)


@pytest.mark.parametrize("command", ["run", "compare", "advise"])
def test_the_benchmark_that_is_taken_where_none_is_named_stands_in_the_file(command, tmp_path, capsys):
    assert "\nbenchmark: picturebook\n" in dumped([command, "--out", "x"], capsys)
    own = dumped([command, "--out", "x", "--data", "mine"], capsys)
    assert "\ndata: mine\n" in own and "benchmark:" not in own
    assert "benchmark:" not in dumped(["update", "x", "--data", "y"], capsys)
    (tmp_path / "f.yaml").write_text(dumped([command, "--out", "x"], capsys))
    _, request = parse([command, "--config", str(tmp_path / "f.yaml"), "--data", "mine"])
    assert (request.stream.benchmark, request.stream.data) == (None, "mine")


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "f.yaml").write_text(text)
        return str(tmp_path / "f.yaml")

    return write


def test_the_command_line_goes_before_the_file(file):
    name = file(
        "recipe: lora\nseed: 3\nout: x\nset: {rank: 2, alpha: 4}\ntemplate: ['a {}']\ndata: mine\nquiet: true\n"
    )
    words = ["run", "--config", name, "--seed", "5", "--set", "rank=8", "--template", "b {}", "--out", "y"]
    request = parse(words)[1]
    assert (request.seed, str(request.out), request.recipe, request.quiet) == (5, "y", "lora", True)
    assert {of.option: of.value for of in request.assignments} == {"rank": "8", "alpha": "4"}
    assert request.stream.template == ("b {}",) and request.stream.data == "mine"
    assert parse([*words, "--benchmark", "picturebook"])[1].stream.data is None
    at_length = file("out: x\niterations: 9\nlr: 0.1\nrate: {night: 0.2}\nno-save: true\n")
    train = parse(["run", "--config", at_length, "--epochs", "2"])[1].train
    assert (train.epochs, train.iterations, train.rates) == (2, None, {"night": 0.2})
    assert parse(["run", "--config", at_length, "--lr", "0.5"])[1].train.rates is None
    unsaved = ["run", "--config", file("out: x\nembed-base: true\n"), "--no-save"]
    assert not parse(unsaved)[1].saving.base


def test_words_without_a_name_stand_for_the_first_ones(file):
    name = file("model: m\npaths: [a, b]\nlabels: [cat, dog]\n")
    request = parse(["predict", "--config", name])[1]
    assert (str(request.model), request.paths, request.labels) == ("m", ("a", "b"), ("cat", "dog"))
    assert parse(["predict", "n", "--config", name])[1] == request.model_copy(update={"model": Path("n")})
    assert parse(["predict", "n", "--config", name, "c"])[1].paths == ("c",)
    (Path(name).parent / "l.txt").write_text("bird\n")
    labels = ["--label-file", str(Path(name).parent / "l.txt")]
    assert parse(["predict", "--config", name, *labels])[1].labels == ("bird",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lrr: 1", "f.yaml: run takes no lrr (did you mean lr?)"),
        ("command: compare", "f.yaml is a request of compare, not of run"),
        ("trust-remote-code: true", "sets trust-remote-code, and no file may ask that code"),
        ("quiet: 1", "quiet is true or false, not 1"),
        ("lr: [1, 2]", "lr has several values, a sweep, which compare runs"),
        ("order: ['a, b', c]", "order has 'a, b', and a comma separates its names"),
        ("seed: {a: 1}", 'seed is a text, not {"a": 1}'),
        ("max-bytes: 3", "run takes no max-bytes"),
        ("seed: 1\nseed: 2", "line 2: it has 'seed' twice"),
        ("image-size: 1\nimage_size: 2", "has image-size twice"),
        ("set: &a {rank: 2}\noption: *a", "anchors and aliases"),
        ("set: !!python/object/apply:os.system [x]", "tags"),
        ("- a", "is not a mapping of names to values"),
        ("seed: 1\n---\nseed: 2", "several documents"),
        ("a: " + "[" * 30, "nested more than 20 deep"),
        ("seed: '", "is not YAML (line "),
        ("order: [" + "a," * 30_000 + "]", "has more than 20,000 values"),
        ("#" * (2 << 20), "2.0 MiB"),
        ("data: a\nbenchmark: picturebook", "--benchmark picturebook and --data a are two streams"),
        ("label-smoothing: 0.5\nnegatives: 3", "label_smoothing spreads a share"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(text, sentence, file, capsys):
    assert cli.main(["run", "--out", "x", "--config", file(text)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said


def test_numbers_are_refused_in_the_words_of_the_command_line(file, capsys):
    said = []
    for words in (["--lr", "-1"], ["--config", file("lr: -1")]):
        with pytest.raises(SystemExit):
            parse(["run", "--out", "x", *words])
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "argument --lr: '-1' is not a finite number above 0" in said[0]


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    for name in ("none.yaml", ""):
        assert cli.main(["run", "--config", str(tmp_path / name)]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_a_sweep_is_one_run_for_every_combination_that_a_recipe_knows(file):
    name = file(
        "command: compare\nout: x\nrecipes: [fine-tune, lora]\nlr: [1e-3, 0.001, 2e-3]\nset: {lora.rank: [2, 4]}\n"
    )
    request = parse(["compare", "--config", name, "--seeds", "0,1"])[1]
    assert len(request.variants) == 6
    found = [(row, asked.seed) for row, asked in prepare.experiments(request)[0]]
    rows = [
        "fine-tune,lr=1e-3",
        "fine-tune,lr=2e-3",
        *(f"lora,lr={lr},rank={r}" for lr in ("1e-3", "2e-3") for r in (2, 4)),
    ]
    assert found == [(row, seed) for seed in (0, 1) for row in rows]
    for row, asked in prepare.experiments(request)[0]:
        assert asked.train.lr == float(re.search(r"lr=([^,]+)", row)[1])
        assert asked.recipe != "lora" or str(asked.recipe_options["rank"]) == row[-1]
    one = parse(["compare", "--config", name, "--lr", "0.5", "--set", "lora.rank=3"])[1]
    assert not one.variants and one.train.lr == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n-train: [1, 2]", "n-train has several values, and a sweep goes through lr, "),
        ("lr: []", "lr has an empty list"),
        ("lr: [" + "1," * 40 + "]\nepochs: [" + "1," * 40 + "]", f"a sweep of 1,600 combinations; {MOST_RUNS:,} are"),
        ("set: {fine-tune.nothing: [1, 2]}", "recipe fine-tune has no option 'nothing'"),
        ("lr: [1e-3, x]", ""),
    ],
)
def test_sweeps_that_cannot_be_meant(text, sentence, file, capsys):
    if sentence:
        assert cli.main(["compare", "--out", "x", "--config", file(text)]) == 2
    else:
        with pytest.raises(SystemExit):
            cli.main(["compare", "--out", "x", "--config", file(text)])
    assert (sentence or "'x' is not a finite number above 0") in capsys.readouterr().err


def test_a_dumped_sweep_is_the_same_sweep(file, capsys):
    name = file("out: x\nlr: [1e-3, 2e-3]\nset: {lora.rank: [2, none]}\n")
    text = dumped(["compare", "--config", name], capsys)
    there = parse(["compare", "--config", name])
    assert parse(["compare", "--config", file(text)]) == there


@pytest.mark.slow
def test_a_sweep_has_a_row_and_a_folder_for_each_run(tmp_path, file, capsys):
    name = file("recipes: fine-tune\nlr: [1e-4, 1e-3]\njobs: 1\n")
    words = ["compare", "--config", name, "--out", str(tmp_path / "out"), *SMALL]
    assert cli.main(words) == 0
    with (tmp_path / "out/results.csv").open() as of:
        rows = list(csv.DictReader(of))
    assert [row["recipe"] for row in rows] == ["fine-tune (lr=0.0001)", "fine-tune (lr=0.001)"]
    assert set(read(tmp_path / "out/summary.json")["recipes"]) == {row["recipe"] for row in rows}
    for lr in ("1e-4", "1e-3"):
        folder = tmp_path / f"out/fine-tune,lr={lr}/seed-0"
        assert read(folder / "result.json")["protocol"]["train"]["lr"] == float(lr)
    assert "fine-tune (lr=0.001)" in capsys.readouterr().out
    before = (tmp_path / "out/results.csv").read_bytes()
    assert cli.main([word for word in words if word != "--quiet"]) == 0
    assert "fine-tune,lr=1e-3, seed 0: finished before, kept" in capsys.readouterr().err
    assert (tmp_path / "out/results.csv").read_bytes() == before
    again = ["run", "--config", str(folder / "request.yaml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert cli.main(again) == 0
    first, second = read(folder / "result.json"), read(tmp_path / "again/result.json")
    assert first["run"] == second["run"] and first["matrix"] == second["matrix"]
    assert (folder / "request.yaml").read_bytes() == (tmp_path / "again/request.yaml").read_bytes()
    capsys.readouterr()
    moved = shutil.move(folder, tmp_path / "moved")
    assert cli.main(["run", "--config", f"{moved}/request.yaml"]) == 0  # in its own folder
    assert "finished before, kept" in capsys.readouterr().err


def test_every_part_of_an_experiment_has_a_name_on_the_command_line():
    asked = prepare.experiment(RunRequest(out=Path("x")), "lora", 0).stored()
    inner = {f"{of}.{name}" for of in ("stream", "model", "train") for name in asked[of]}
    assert set(NAMES) == inner | (set(asked) - {"stream", "model", "train", "versions"})
    taken = {name.replace("-", "_") for name in (word.name for word in PARSER()[1]["run"].takes)}
    assert set(NAMES.values()) <= taken and set(ASSIGNED) <= taken
    assert {"lr", "rates"} < set(TrainSettings.__dataclass_fields__) and "max_grad_norm" in NUMBERS


def asked_again(asked, folder: Path):
    """The experiment that the file of one stands for."""
    store.write_request(folder, asked)
    request = parse(["run", "--config", str(folder / "request.yaml")])[1]
    assert request.out == folder
    return prepare.experiment(request, request.recipe, request.seed)


def test_the_request_of_every_recipe_asks_for_the_same_experiment(tmp_path):
    from avalanche_vlm.catalogue import catalogue

    for line in catalogue():
        words = ["run", "--out", str(tmp_path), "--recipe", line.name, "--seed", "3"]
        if "generator" in line.needs:
            words += ["--data", "mine", "--generator", "g"]
        asked = prepare.experiment(parse(words)[1], line.name, 3)
        assert asked_again(asked, tmp_path) == asked, line.name
        assert store.read_experiment(tmp_path / "request.yaml") == asked


@pytest.mark.parametrize(
    "words",
    [
        "--recipe lora --full --online --max-grad-norm none --rate night=0.5 --rate a=b=1e-3 --lr 1e-300",
        "--data d.csv --held-out a --held-out imagenet --held-out-root r --template {} --order b,a --on-error skip",
        "--data d.csv --kind pairs --image-root r --split-classes 3 --check fast --class-order sorted --steps 2",
        "--benchmark picturebook-time --option n_experiences=4 --option styles=night --option x=[1,null] --n-train 8",
        "--eval last --eval-every 3 --workers 2 --amp bf16 --train-classes seen --model ViT-B-16 --pretrained openai",
        "--recipe zscl --set weight=2 --set interval=3 --label-space union --data-seed 7 --image-size 336",
        "--benchmark mtil --root data --iterations 5 --warmup 1 --weight-decay 0.1 --precision pure_bf16 --negatives 3",
    ],
)
def test_a_stored_request_asks_for_the_same_experiment(words, tmp_path):
    request = parse(["run", "--out", str(tmp_path), *words.split()])[1]
    asked = prepare.experiment(request, request.recipe, request.seed)
    assert asked_again(asked, tmp_path) == asked
    assert store.read_experiment(tmp_path / "request.yaml") == asked


def test_a_published_request_asks_for_the_same_experiment(tmp_path):
    words = ["run", "--out", str(tmp_path), "--recipe", "moe-adapters", "--benchmark", "mtil", "--published"]
    asked = prepare.experiment(parse(words)[1], "moe-adapters", 0)
    assert asked.train.max_grad_norm is None
    assert asked_again(asked, tmp_path) == asked


def test_an_edited_request_is_told(tmp_path):
    asked = prepare.experiment(RunRequest(out=tmp_path), "fine-tune", 0)
    store.write_request(tmp_path, asked)
    path = tmp_path / "request.yaml"
    text = path.read_text()
    for old, new, sentence in (
        ("seed: 0", "seed: 1", "was changed since it was written"),
        ("seed: 0", "seed: 0\nsede: 1", "it has sede, which is never written"),
        ("seed: 0", "seed: 0\ntrust-remote-code: true", "sets trust_remote_code, and no file may ask"),
        ("kept:", "made:", "does not say what its run is known by"),
        ("command: run", "command: compare", "it has command, which is never written"),
        ("  format: 1", "  format: 2", "has format 2"),
    ):
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=sentence):
            store.read_experiment(path)


def test_a_stored_request_cannot_ask_for_code(tmp_path):
    request = parse(["run", "--out", str(tmp_path), "--model", "hf-hub:a/b", "--trust-remote-code"])[1]
    asked = prepare.experiment(request, "fine-tune", 0)
    assert "trust" not in yaml_text(as_configuration(asked, False))
    again = asked_again(asked, tmp_path)
    assert not again.model.trust_remote_code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.dictionaries(TEXTS, JSON, max_size=5))
def test_what_is_written_in_yaml_is_read_again(content):
    assert plain_types(parse_yaml(yaml_text(content), Path("f"))) == content


@pytest.mark.parametrize("page", ["docs/configuration.md"])
def test_every_example_of_the_page_runs(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text()
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text, re.M | re.S)
    assert len(files) >= 3
    for name, content in files:
        (tmp_path / name).write_text(content)
        command = re.search(r"^command: (\w+)", content, re.M)[1]
        assert parse([command, "--config", name])[0] == command


def test_the_page_names_what_a_sweep_goes_through():
    page = (ROOT / "docs/configuration.md").read_text()
    (named,) = re.findall(r"training settings \((.*?)\) and recipes' options \(`set`\)", page, re.S)
    assert [*re.findall("`([^`]*)`", named), "set"] == list(SWEPT)


def test_every_setting_of_a_training_has_a_name_in_the_file_of_a_run():
    assert {place.partition(".")[2] for place in NAMES if place.startswith("train.")} == {
        field.name for field in fields(TrainSettings)
    }


def plain_run(**train) -> Experiment:
    return Experiment(
        recipe="fine-tune",
        recipe_options={},
        seed=0,
        stream=StreamRequest(benchmark="picturebook"),
        model=ModelRequest(),
        device="cpu",
        train=TrainSettings(**train),
        versions={},
    )


@pytest.mark.parametrize(
    "chosen", [{}, {"accumulate": 4}, {"grad_checkpointing": True}, {"tf32": True}, {"compile": True}]
)
def test_settings_that_came_later_are_kept_and_files_of_before_are_read(tmp_path, chosen):
    asked = plain_run(**chosen)
    write_stored(tmp_path / "request.yaml", asked, False)
    assert read_stored(tmp_path / "request.yaml") == asked
    if chosen:
        return
    stored = asked.stored()
    for place in LATER:
        del stored["train"][place.partition(".")[2]]
    sealed = REQUEST.sealed({"run": run_id_of(stored), **stored})
    assert sealed["run"] == asked.run_id
    (tmp_path / "request.json").write_text(json.dumps(sealed))
    assert read_stored(tmp_path / "request.json") == asked
    found = as_configuration(asked, False)
    for place in LATER:
        del found[place.partition(".")[2].replace("_", "-")]
    found[KEPT]["sha256"] = sealed["sha256"]
    (tmp_path / "earlier.yaml").write_text(yaml_text(found))
    assert read_stored(tmp_path / "earlier.yaml") == asked


@pytest.mark.parametrize("value", ["[1, 2]", "[1,2]", "1e-3", "0.10", "null", "true", '"3"', "word", '{"a": [null]}'])
def test_options_of_a_benchmark_are_the_same_through_a_file(tmp_path, capsys, value):
    words = ["run", "--out", "o", "--option", f"x={value}"]
    _, typed = parse(words)
    with pytest.raises(SystemExit):
        parse([*words, "--dump-config"])
    (tmp_path / "file.yaml").write_text(capsys.readouterr().out)
    _, read_again = parse(["run", "--config", str(tmp_path / "file.yaml")])
    assert read_again.stream.options == typed.stream.options


def test_a_copy_of_a_stored_request_is_a_file_like_any_other(tmp_path):
    asked = plain_run()
    for name in ("request.yaml", "base.yaml"):
        write_stored(tmp_path / name, asked, False)
    assert parse(["run", "--config", str(tmp_path / "request.yaml")])[1].out == tmp_path
    with pytest.raises(SystemExit):  # it says no folder
        parse(["run", "--config", str(tmp_path / "base.yaml")])
    out = str(tmp_path / "out")
    assert parse(["run", "--config", str(tmp_path / "base.yaml"), "--out", out])[1].out == tmp_path / "out"


def test_a_folder_that_is_held_out_beside_a_benchmark_with_a_root_runs_again(tmp_path):
    (tmp_path / "aside").mkdir()
    words = ["--benchmark", "cifar100", "--root", str(tmp_path), "--held-out", str(tmp_path / "aside")]
    assert parse(["run", "--out", "o", *words])[1].stream.held_out_root is None


@pytest.mark.parametrize("images", ["[a.jpg, --top-k, '3']", "[-x.jpg]"])
def test_a_list_of_files_brings_no_options(tmp_path, images):
    (tmp_path / "file.yaml").write_text(f"command: retrieve\nmodel: m\nimages: {images}\n")
    with pytest.raises(InputError, match="which begins as an option does: write"):
        parse(["retrieve", "--config", str(tmp_path / "file.yaml")])
