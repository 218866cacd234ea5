"""Results on disk."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from small_runs import as_earlier, forge, read

from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.requests import RunRequest, StreamRequest
from avalanche_vlm.errors import InputError


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    store.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*result\.json: No space left on device"):
        store.write_json(path, {"a": 2})
    assert read(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_results_are_never_nan_on_disk(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        store.write_json(tmp_path / "result.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "result.json"
    store.write_json(path, {"a": 1})
    path.chmod(0o640)
    store.write_json(path, {"a": 2})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and read(path) == {"a": 2}


@pytest.mark.parametrize("options", [{}, {"n_test": 8}], ids=["none", "others"])
def test_a_setting_that_differs_is_named_and_not_its_empty_group(tmp_path, options):
    asked = prepare.experiment(RunRequest(out=tmp_path, stream=StreamRequest(options={"n_train": 16})), "fine-tune", 0)
    store.write_request(tmp_path, asked)
    for name in ("result.json", "timing.json"):
        store.write_json(tmp_path / name, {})  # what was asked for is compared first
    other = asked.model_copy(update={"stream": StreamRequest(options=options)})
    with pytest.raises(InputError, match=r"stream\.options\.n_t\w+ = ") as told:
        store.finished(tmp_path, other)
    assert "stream.options =" not in str(told.value)


def protocol(**data) -> dict:
    return {"benchmark": "mine", "data": {"path": "/a/mine", **data}, "prompts": "p", "train": {"lr": 1.0}}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"benchmark": "yours"}, r"out holds a result with benchmark = 'mine', which is now 'yours': choose another"),
        ({"train": {"lr": 2.0}}, r"out holds a result with train\.lr = 1\.0, which is now 2\.0: choose another --out"),
        ({"prompts": "q"}, r"/a/mine has changed since .*out was run \(prompts was 'p' and is 'q'\): choose another"),
    ],
)
def test_what_differs_is_said_and_nothing_is_blamed_that_has_not_changed(tmp_path, changed, sentence):
    words = RunRequest(out=tmp_path, stream=StreamRequest(benchmark=None, data="/a/mine"))
    asked = prepare.experiment(words, "fine-tune", 0)
    store.confirm(tmp_path / "out", asked, {"protocol": protocol()}, protocol())
    with pytest.raises(InputError, match=sentence) as told:
        store.confirm(tmp_path / "out", asked, {"protocol": protocol()}, {**protocol(), **changed})
    assert "code" not in str(told.value)


def test_names_of_classes_that_moved_with_the_data_are_the_same(tmp_path):
    asked = prepare.experiment(RunRequest(out=tmp_path), "fine-tune", 0)
    kept = {"protocol": protocol(class_names="/a/mine/classes.txt")}
    store.confirm(tmp_path, asked, kept, protocol(class_names="/b/mine/classes.txt", path="/b/mine"))


def test_a_stored_request_cannot_ask_that_code_of_a_model_be_run(tmp_path):
    asked = prepare.experiment(RunRequest(out=tmp_path), "fine-tune", 0)
    store.write_request(tmp_path, asked)
    assert store.read_experiment(tmp_path / "request.yaml").stored() == asked.stored()
    earlier = as_earlier(tmp_path)
    forge(earlier, model={**asked.stored()["model"], "trust_remote_code": True})
    with pytest.raises(InputError, match=r"request\.json sets trust_remote_code, and no file may ask"):
        store.read_experiment(store.request_of(tmp_path))


def test_trust_in_a_models_code_is_said_again_and_never_read(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from avalanche_vlm import models
    from avalanche_vlm.commands import prepare, update
    from avalanche_vlm.commands.arguments import parse

    trusted = []
    monkeypatch.setattr(models, "create_vlm", lambda *_, trust_remote_code, **__: trusted.append(trust_remote_code))
    asked = prepare.experiment(parse(["run", "--out", "x"])[1], "fine-tune", 0)
    prepare.fresh_model(asked), prepare.fresh_model(asked, trust=True)
    assert trusted == [False, True]
    for words in (["diagnose", "x"], ["update", "x", "--data", "y"]):
        said, unsaid = (parse([*words, *more])[1] for more in (["--trust-remote-code"], []))
        of = (lambda request: request) if words[0] == "diagnose" else (lambda request: request.model)
        assert of(said).trust_remote_code and not of(unsaid).trust_remote_code
    # An update makes the base from what its run was asked for, and only where code was trusted then.
    saved = SimpleNamespace(description=SimpleNamespace(base=SimpleNamespace(origin=None), about={}))
    request = parse(["update", str(tmp_path), "--data", "y", "--trust-remote-code"])[1]
    with pytest.raises(InputError, match="--trust-remote-code is for a model that run has made with it"):
        update._base(request, saved)
    store.write_request(tmp_path, asked)
    assert update._base(request, saved) is None and trusted == [False, True, True]
    saved.description.base.origin = "hf-hub:some/model"
    with pytest.raises(InputError, match="holds no other code"):
        update._base(request, saved)
    assert update._base(parse(["update", str(tmp_path), "--data", "y"])[1], saved) is None and len(trusted) == 3
