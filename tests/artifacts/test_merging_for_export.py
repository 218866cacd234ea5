"""Plain weights of models whose modules can become part of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved import saved_lora, tiny_with_classes
from trained import build, short_stream

from avalanche_vlm.artifacts import export, load
from avalanche_vlm.artifacts.merging import merged_copy
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter

ALONE = """
import sys
import open_clip, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
model = open_clip.create_model("local-dir:" + sys.argv[1]).eval()
with torch.no_grad():
    features = model.encode_image(load_file(sys.argv[2])["images"], normalize=True)
save_file({"features": features.contiguous()}, sys.argv[3])
assert not [name for name in sys.modules if name.startswith("avalanche")]
"""


def random_model() -> VLM:
    return create_vlm("tiny", "random").eval()


@pytest.mark.slow
def test_open_clip_alone_opens_a_merged_module_and_gives_its_features(tmp_path):
    saved_lora(tmp_path / "saved")
    found = export(tmp_path / "saved", "open_clip", tmp_path / "out", module="task_0")
    images = torch.randn(3, 3, 32, 32)
    save_file({"images": images}, tmp_path / "asked")
    command = [sys.executable, "-c", ALONE, *map(str, (found.folder, tmp_path / "asked", tmp_path / "found"))]
    subprocess.run(command, check=True, capture_output=True)
    model = load(tmp_path / "saved")
    with torch.no_grad(), model.routed.pool.using("task_0"):
        expected = model.encode_image_plain(images)
    features = load_file(tmp_path / "found")["features"]
    torch.testing.assert_close(features, expected, atol=2e-6, rtol=0)
    assert not torch.allclose(features, model.encode_image_plain(images), atol=1e-3)  # the module does something
    (sentence,) = found.sentences
    told = float(sentence.split(" at most ")[1].split()[0])
    assert "the module 'task_0'" in sentence and told < 1e-5


def test_a_linear_adapter_behind_the_tower_becomes_part_of_its_projection():
    model = random_model()
    adapter = FeatureAdapter(model.width)
    torch.nn.init.normal_(adapter.up.weight, std=0.2)
    model.install("image_path", AdapterPath(adapter), "a test")
    images = torch.randn(5, 3, 32, 32)
    with model.evaluating():
        expected = model.encode_image(images)
        assert not torch.allclose(expected, model.encode_image_plain(images), atol=1e-2)
        torch.testing.assert_close(merged_copy(model).encode_image(images), expected, atol=1e-6, rtol=0)
    assert model.image_path is not None


def test_a_model_of_plain_weights_is_itself():
    model = random_model()
    plain = merged_copy(model)
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in model.clip.state_dict(prefix="clip.").items())


def test_what_was_merged_leaves_the_model_as_it_is(tmp_path):
    model = load(saved_lora(tmp_path))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    merged_copy(model, "task_1")
    assert model.routed.pool.names == ["task_0", "task_1"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("rail-primal", "answers by a class head, a AnalyticHead"),
        ("maple", "answers with prompts or other parts between the layers"),
        ("l2p", "answers with prompts or other parts between the layers"),
    ],
)
def test_what_no_plain_weights_do_is_refused_in_a_sentence(tmp_path, recipe, sentence):
    model = build(recipe, short_stream("classes"), random_model).model
    with pytest.raises(InputError, match=sentence):
        export(model, "open_clip", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_modules_that_are_no_change_of_weights_are_refused(tmp_path):
    made = build("adapter-per-task", short_stream("classes"), random_model)
    made.plugins[0].pool.add_next()
    with pytest.raises(InputError, match="no change of weights: task_0 cannot be merged"):
        export(made.model, "open_clip", tmp_path / "out", module="task_0")


def test_a_model_that_chooses_asks_which_module(tmp_path):
    saved_lora(tmp_path / "saved")
    with pytest.raises(InputError, match=r"chooses one of its modules for each image.* of task_0, task_1"):
        export(tmp_path / "saved", "open_clip", tmp_path / "out")
    with pytest.raises(InputError, match="has no module 'task_7'; it has task_0, task_1"):
        export(tmp_path / "saved", "open_clip", tmp_path / "out", module="task_7")
    with pytest.raises(InputError, match="does not choose among modules"):
        export(tiny_with_classes(), "open_clip", tmp_path / "out", module="task_0")


def test_a_model_that_was_built_by_hand_has_no_configuration(tmp_path, mini_model):
    with pytest.raises(InputError, match="was built by hand, so nothing says what open_clip should build"):
        export(mini_model, "open_clip", tmp_path / "out")
