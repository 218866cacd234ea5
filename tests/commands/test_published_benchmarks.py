"""Published benchmarks from the command line, on miniature files."""

from __future__ import annotations

import json

import pytest
import real_formats
from small_runs import read

from avalanche_vlm import cli
from avalanche_vlm.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

# The tiny model reads 20 tokens of a text, and spells words that the picturebook has not.
QUICK = [
    "--option",
    "prompts=plain",
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--quiet",
    "--jobs",
    "1",
    "--checkpoint-minutes",
    "none",
]


def compared(tmp_path, *words: str) -> list[dict]:
    """What two recipes come to."""
    out, recipes = tmp_path / "out", ("zero-shot", "fine-tune")
    assert cli.main(["compare", "--recipes", ",".join(recipes), "--out", str(out), *words, *QUICK]) == 0
    return [read(out / name / "seed-0/result.json") for name in recipes]


def test_a_part_of_mtil_from_root_to_table(tmp_path):
    for name in ("caltech101", "food101"):
        real_formats.TORCHVISION[name](tmp_path / "data")
    order = ["Food", "Caltech101"]
    first, second = compared(
        tmp_path, "--benchmark", "mtil", "--root", str(tmp_path / "data"), "--shots", "1", "--order", ",".join(order)
    )
    for result in (first, second):
        assert result["tasks"] == order and len(result["matrix"]) == 3 and result["protocol"]["label_space"] == "task"
        data = result["protocol"]["data"]
        assert data["splits"] == "zscl" and data["shots"] == 1 and data["n_test"] == [6, 4]
        assert len(result["data"]["chosen"]["Food"]) == 2
    assert first["protocol"]["data"]["content"] == second["protocol"]["data"]["content"]
    assert first["matrix"][0] == first["matrix"][-1] == second["matrix"][0] != second["matrix"][-1]


def test_the_classes_of_one_data_set_from_root_to_table(tmp_path):
    real_formats.cifar100(tmp_path / "data", classes=4, train=6, test=2)
    words = ["--benchmark", "cifar100", "--root", str(tmp_path / "data"), "--option", "increment=2"]
    for result in compared(tmp_path, *words, "--class-order", "natural"):
        assert result["tasks"] == ["classes 1", "classes 2"] and result["protocol"]["label_space"] == "seen"
        data = result["protocol"]["data"]
        assert data["class_order"] == "natural" and data["n_train"] == [12, 12] and data["n_test"] == [4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", real_formats.CLASS_INCREMENTAL)
def test_each_of_the_class_incremental_family_from_root_to_table(tmp_path, name):
    make, options, tasks = real_formats.CLASS_INCREMENTAL[name]
    make(tmp_path / "data")
    given = [word for option, value in options.items() for word in ("--option", f"{option}={value}")]
    for result in compared(tmp_path, "--benchmark", name, "--root", str(tmp_path / "data"), *given):
        assert len(result["tasks"]) == tasks and len(result["matrix"]) == tasks + 1
        assert result["protocol"]["benchmark"] == name and result["protocol"]["label_space"] == "seen"


def test_reference_pairs_are_given_beside_a_published_benchmark(tmp_path, capsys):
    real_formats.TORCHVISION["food101"](tmp_path / "data")
    picture = next((tmp_path / "data").rglob("*.jpg"))
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{picture},a dish {n}\n" for n in range(4)))
    words = ["run", "--benchmark", "mtil", "--root", str(tmp_path / "data"), "--order", "Food", "--recipe", "zscl"]
    at = QUICK.index("--jobs")
    quick = [*QUICK[:at], *QUICK[at + 2 :], "--no-save"]
    assert cli.main([*words, "--out", str(tmp_path / "none"), *quick]) == 2
    assert "recipe zscl needs what mtil does not bring, reference pairs: give some" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--reference", str(tmp_path / "pairs.csv"), *quick]) == 0
    assert read(tmp_path / "out/result.json")["protocol"]["resources"]["reference"]["pairs"] == 4
    out = capsys.readouterr().out
    assert "Published figures are not shown: " in out and "order has 11 entries there and 1 here" in out


def test_published_settings_are_taken_and_what_is_given_goes_before_them(tmp_path):
    from avalanche_vlm.commands import prepare
    from avalanche_vlm.commands.arguments import parse
    from avalanche_vlm.commands.published import published_from

    def asked(words: str):
        _, request = parse(["run", "--out", "o", *words.split()])
        return prepare.experiment(request, request.recipe, 0).train, published_from(request)

    train, told = asked("--benchmark mtil --root x --recipe fine-tune --published")
    assert (train.lr, train.iterations, train.rates["MNIST"]) == (1e-5, 1000, 5e-5)
    assert len(told) == 1 and "ZSCL's code" in told[0] and "5e-5 on Aircraft and MNIST" in told[0]
    assert "trained as published: " in told[0]
    same = "--benchmark mtil --root x --recipe fine-tune --published --order I --option splits=zscl --label-space task"
    assert asked(same)[1] == told
    words = "--benchmark mtil --root x --recipe fine-tune --published --epochs 2 --lr 1e-4 --shots 5 --label-space seen"
    train, told = asked(words)
    assert "as published but for lr, rates, iterations, epochs, shots, label_space: " in told[0], told
    assert (train.iterations, train.epochs, train.lr, train.rates) == (None, 2, 1e-4, None)
    with pytest.raises(InputError, match="recipe lora has no published settings for mtil"):
        asked("--benchmark mtil --root x --recipe lora --published")
    with pytest.raises(InputError, match="--published takes settings that were published for a benchmark, and --data"):
        asked(f"--data {tmp_path} --recipe fine-tune --published")


def test_what_trains_nothing_needs_no_published_settings_and_all_that_have_none_are_named():
    from avalanche_vlm.commands import prepare
    from avalanche_vlm.commands.arguments import parse
    from avalanche_vlm.commands.published import published_from

    def asked(recipes: str):
        words = f"compare --out o --benchmark mtil --root x --published --recipes {recipes}"
        _, request = parse(words.split())
        return [of.train for _, of in prepare.experiments(request)[0]], published_from(request)

    def alone(words: str):
        _, request = parse(["run", "--out", "o", "--benchmark", "mtil", "--root", "x", *words.split()])
        return prepare.experiment(request, request.recipe, 0).train

    (zero_shot, fine_tune), told = asked("zero-shot,fine-tune")
    assert zero_shot == alone("--recipe zero-shot") == alone("--recipe zero-shot --published")
    assert fine_tune.iterations == 1000 and "ZSCL's code" in told[1]
    assert told[0] == "zero-shot needs no published settings: nothing is trained"
    with pytest.raises(InputError, match=r"recipe lora has no [^\n]*; and recipe l2p has no [^\n]*") as refused:
        asked("lora,zero-shot,fine-tune,l2p")
    assert "fine-tune" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tasks"), [("mtil", 11), ("xtail", 10)])
def test_all_of_it_from_root_to_table(tmp_path, name, tasks):
    make = real_formats.torchvision_root if name == "mtil" else real_formats.coop_root
    for result in compared(tmp_path, "--benchmark", name, "--root", str(make(tmp_path / "data")), "--shots", "1"):
        assert len(result["tasks"]) == tasks and len(result["matrix"]) == tasks + 1
        assert result["protocol"]["label_space"] == ("task" if name == "mtil" else "union")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--root", "ROOT"], "ROOT has no fgvc-aircraft-2013b/data/variants.txt: it should be the list of the 100"),
        (["--root", "ROOT/none"], "there is no folder at ROOT/none: it should hold fgvc-aircraft-2013b, caltech101"),
        ([], "benchmark mtil needs root: folder that holds the data sets (--root DIR)"),
        (["--root", "ROOT", "--option", "splits=3"], "benchmark mtil: splits is one of zscl, coop, not 3"),
        (["--root", "ROOT", "--order", "III"], "benchmark mtil has no task called 'III'; it has Aircraft"),
        (["--root", "ROOT", "--n-train", "3"], "--n-train does not apply to mtil"),
        (["--root", "ROOT", "--class-order", "sorted"], "--class-order does not apply to mtil"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch, words, sentence):
    from avalanche_vlm.commands import loading

    monkeypatch.setattr(loading, "load_for", lambda *given: pytest.fail("loaded"))
    here = [word.replace("ROOT", str(tmp_path)) for word in words]
    assert cli.main(["run", "--benchmark", "mtil", *here, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert sentence.replace("ROOT", str(tmp_path)) in err and "\n" not in err
    assert not (tmp_path / "out").exists()


def test_a_root_is_for_published_benchmarks(tmp_path, capsys):
    for stream in (["--benchmark", "picturebook"], ["--data", str(tmp_path)]):
        assert cli.main(["run", *stream, "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        assert "--root does not apply to " in capsys.readouterr().err


def test_it_is_described_with_layout_and_counts(capsys):
    assert cli.main(["list", "benchmarks", "mtil"]) == 0
    text = capsys.readouterr().out
    facts = ("family: multi-domain", "arXiv 2303.06628", "ROOT/food-101/images: the folder of 101", "train: 75750")
    for fact in (*facts, "licence: non-commercial research only", "order: I, II, or names in an order"):
        assert fact in text
    assert cli.main(["list", "benchmarks", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["xtail"]["family"] == "multi-domain" and lines["picturebook"]["kind"] == "classes"
