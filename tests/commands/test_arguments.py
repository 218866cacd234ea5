"""The words of the command line become one typed request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from avalanche_vlm.benchmarks.registry import BENCHMARKS, get_benchmark
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.requests import (
    AdviseRequest,
    Assignment,
    CompareRequest,
    DiagnoseRequest,
    Limits,
    ListRequest,
    ModelRequest,
    ReportRequest,
    RunRequest,
    StreamRequest,
    TrainChanges,
)
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.settings import TrainSettings

FIRST_LOOK = {"n_train": 160, "n_test": 100, "n_held_out": 300, "n_reference": 400}


def asked(command: str):
    name, request = parse(command.split())
    assert name == command.split()[0]
    return request


def test_what_is_not_said_has_its_default():
    assert asked("run --out here --full") == RunRequest(out=Path("here"), train=TrainChanges(num_workers=0))
    assert asked("diagnose here") == DiagnoseRequest(out=Path("here"))
    assert asked("report here") == ReportRequest(out=Path("here"))


def test_a_run_is_asked_for_in_parts():
    request = asked(
        "run --out here --quiet --threads 2 --recipe lora --seed 3 --benchmark picturebook-time --label-space union "
        "--n-train 8 --option n_experiences=4 --option styles=night --model ViT-B-16 --pretrained openai --device cpu "
        "--precision pure_bf16 --image-size 336 "
        "--lr 1e-3 --epochs 2 --amp bf16 --workers 1 --set rank=2 --set zscl.weight=none --checkpoint-minutes 0.25"
    )
    assert request == RunRequest(
        out=Path("here"),
        quiet=True,
        threads=2,
        checkpoint_minutes=0.25,
        recipe="lora",
        seed=3,
        stream=StreamRequest(
            benchmark="picturebook-time",
            label_space="union",
            options={**FIRST_LOOK, "n_train": 8, "n_experiences": 4, "styles": "night"},
        ),
        model=ModelRequest(name="ViT-B-16", pretrained="openai", precision="pure_bf16", image_size=336),
        device="cpu",
        train=TrainChanges(lr=1e-3, epochs=2, amp="bf16", num_workers=1),
        assignments=(
            Assignment(text="rank=2", recipe=None, option="rank", value="2"),
            Assignment(text="zscl.weight=none", recipe="zscl", option="weight", value="none"),
        ),
    )
    assert request.recipe_names() == ("lora",)


@pytest.mark.parametrize("command", ["run", "compare", "advise"])
def test_a_first_look_is_short_in_all_commands_alike(command):
    options = asked(f"{command} --out x --n-test 7 --option n_train=9").stream.options
    assert options == {**FIRST_LOOK, "n_test": 7, "n_train": 9}
    assert asked(f"{command} --out x --full --n-test 7").stream.options == {"n_test": 7}
    assert asked(f"{command} --out x --data mine").stream.options == {}
    with pytest.raises(InputError, match="--full does not apply to --data, which is taken whole"):
        asked(f"{command} --out x --data mine --full")


def test_a_benchmark_of_one_size_takes_no_full(monkeypatch):
    one = replace(get_benchmark("picturebook"), quick={})
    monkeypatch.setattr(BENCHMARKS, "_registered", {**BENCHMARKS._known, "picturebook": one})
    assert asked("run --out x").stream.options == {}
    with pytest.raises(InputError, match="--full does not apply to picturebook, which has one size"):
        asked("run --out x --full")
    with pytest.raises(InputError, match="quick is a mapping of options to values, not 'small'"):
        replace(one, quick="small")


def test_trust_in_code_of_a_model_is_said_for_one_command_and_stored_nowhere():
    assert not asked("run --out here").model.trust_remote_code
    model = asked("run --out here --model hf-hub:some/model --trust-remote-code").model
    assert model.trust_remote_code and "trust_remote_code" not in model.model_dump()


def test_checkpoints_are_minutes_apart_or_at_the_ends_alone(capsys):
    for words in ("run --out here", "compare --out here", "advise --out here", "diagnose here"):
        assert asked(words).checkpoint_minutes == 10
        assert asked(f"{words} --checkpoint-minutes 0").checkpoint_minutes == 0
        assert asked(f"{words} --checkpoint-minutes none").checkpoint_minutes is None
        for bad in ("-1", "inf", "nan", "never"):
            with pytest.raises(SystemExit):
                asked(f"{words} --checkpoint-minutes={bad}")
            assert f"{bad!r} is not a finite number of 0 or more, or none" in capsys.readouterr().err


def test_own_data_stand_in_the_place_of_a_benchmark():
    stream = asked("run --out x --data mine --on-error skip --order b,a --template {} --reference pairs.csv").stream
    assert stream == StreamRequest(
        benchmark=None, data="mine", on_error="skip", order=("b", "a"), template=("{}",), reference="pairs.csv"
    )


def test_what_is_named_twice_is_one_experiment():
    request = asked("compare --out x --recipes zscl,lora,zscl --seeds 1,0,1")
    assert isinstance(request, CompareRequest) and request.recipes == request.recipe_names() == ("zscl", "lora")
    assert request.chosen and request.seeds == (1, 0)
    default = asked("compare --out x")
    assert not default.chosen and "fine-tune" in default.recipes and default.seeds == (0,)


@pytest.mark.parametrize(
    "words",
    [
        "compare --seed 3 --out x",
        "run --out x --epoch 2",
        "advise --out x --minute 1",
        "diagnose x --thread 1",
        "list recipes --js",
        "report x --o y",
    ],
)
def test_options_are_taken_by_their_whole_names(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(words.split())
    assert stop.value.code == 2 and "unrecognized arguments: --" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["run --out=--", "diagnose x --checkpoint-minutes=--", "report x --out=-- --"])
def test_a_value_that_argparse_takes_for_the_end_of_options_is_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(words.split())
    assert stop.value.code == 2 and "expected one argument, not '--'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["versions", "\0"], ["run", "--out", "a\0b"], ["run", "--out=x", "--set", "n=\0"]])
def test_an_argument_with_a_null_byte_is_refused(words):
    with pytest.raises(InputError, match="has the character of code 0 in it"):
        parse(words)


@pytest.mark.parametrize("command", ["compare", "advise"])
def test_of_two_values_of_an_option_the_later_one_is_asked_for(command):
    given = ["rank=8", "lora.rank=3", "rank=8", "rank=4"]
    request = parse([command, "--out", "x", *(f"--set={text}" for text in given)])[1]
    assert [of.text for of in request.assignments] == ["lora.rank=3", "rank=4"]


def test_limits_are_the_constraints_of_advice():
    from avalanche_vlm.studies.advice.constraints import Constraints

    request = asked("advise --out x --no-raw-data --no-task-id --max-bytes 9 --keep-zero-shot 1 --minutes 0.5")
    assert isinstance(request, AdviseRequest) and request.minutes == 0.5
    assert request.limits == Limits(max_bytes=9, raw_data=False, task_id=False, keep_zero_shot=1.0)
    assert Constraints(**request.limits.model_dump()) == Constraints(9, False, False, None, 1.0)
    assert Constraints(**asked("advise --out x").limits.model_dump()) == Constraints()


def test_lists_are_asked_for_by_what_and_name():
    assert asked("list recipes") == ListRequest(what="recipes")
    assert asked("list models tiny --json") == ListRequest(what="models", name="tiny", as_json=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--set rank", "--set rank: write OPTION=VALUE or RECIPE.OPTION=VALUE"),
        ("--option styles", "--option styles: write NAME=VALUE"),
    ],
)
def test_an_assignment_needs_a_value(words, sentence):
    with pytest.raises(InputError, match=sentence):
        asked(f"run --out x {words}")


def test_a_request_cannot_be_changed_and_has_no_fields_of_its_own_making():
    request = asked("run --out x")
    with pytest.raises(ValidationError, match="frozen"):
        request.seed = 1
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RunRequest(out=Path("x"), sede=1)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        RunRequest(out=Path("x"), seed=-1)


@pytest.mark.parametrize(
    "words",
    [
        "--threads 99999999999999",
        "--workers 99999999",
        "--batch-size 99999999999999999999",
        "--seed 18446744073709551616",
    ],
)
def test_numbers_that_no_machine_takes_are_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["run", "--out", "x", *words.split()])
    assert stop.value.code == 2 and " is above " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", ""], "--data: the path is empty"),
        (["--data", "x.csv", "--benchmark", "picturebook-time"], "are two streams: give one of them"),
    ],
)
def test_streams_that_cannot_be_meant(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(["run", "--out", "x", *words])


def test_what_json_has_no_number_for_stays_a_text():
    _, request = parse(["run", "--out", "x", "--full", "--option", "a=NaN", "--option", "b=1e400", "--option", "c=2"])
    assert request.stream.options == {"a": "NaN", "b": "1e400", "c": 2}


def test_a_stored_stream_names_something():
    with pytest.raises(ValidationError, match="neither a benchmark nor data is named"):
        StreamRequest(benchmark=None)


@pytest.mark.parametrize(
    "setting", [{"lr": 1e300}, {"batch_size": 10**30}, {"num_workers": -3}, {"warmup": -1}, {"weight_decay": -0.1}]
)
def test_settings_that_torch_cannot_take(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        TrainSettings(**setting)


def test_updates_are_told_how_often_checkpoints_are_written():
    words = ["update", "DIR", "--data", "month.csv"]
    assert parse(words)[1].checkpoint_minutes == 10
    assert parse([*words, "--checkpoint-minutes", "0.5"])[1].checkpoint_minutes == 0.5
    assert parse([*words, "--checkpoint-minutes", "none"])[1].checkpoint_minutes is None
