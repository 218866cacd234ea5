"""Predictions for images of a user's: what is read, what competes, who has answered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mini import mini
from PIL import Image
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.sources.images import read_image
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.predict import most_probable
from avalanche_vlm.models.routers.base import Route

NAMES = ["star", "heart", "moon", "cup", "red star", "blue heart", "cloud"]
ROUNDING = 2e-6
"""What a probability may move when the batch has another size: matrix products then sum in another order."""


@pytest.fixture(scope="module")
def model():
    return mini().set_label_space(LabelSpace.from_names(NAMES))


@pytest.fixture(scope="module")
def images():
    return torch.randn(23, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def names_of(prediction) -> list[str]:
    return [found.name for found in prediction.classes]


def same(one, other) -> bool:
    """Whether two predictions are the same but for rounding: classes, ranks, module and verdict."""
    near = all(abs(a.probability - b.probability) < ROUNDING for a, b in zip(one.classes, other.classes, strict=True))
    told = (one.module, one.out_of_distribution) == (other.module, other.out_of_distribution)
    return near and told and names_of(one) == names_of(other)


class ByBrightness:
    """A router that places dark images in task 0, bright ones in task 1, and very bright ones in none."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor) -> None:
        with model.evaluating():
            features = model.encode_image_plain(images)
        self.axis = features.mean(0)
        low, high = (features @ self.axis).quantile(torch.tensor([0.3, 0.7]))
        self.low, self.high = float(low), float(high)

    def __len__(self) -> int:
        return 2

    def score(self, features):
        along = features @ self.axis
        task = (along > self.low).long()
        return Route(task, torch.ones_like(along), along > self.high)


def routed(images: torch.Tensor):
    """A model with two modules, of which a router chooses one, the other, or none."""
    model = mini().set_label_space(LabelSpace.from_names(NAMES))
    router = ByBrightness(model, images)
    pool = ModulePool(named("image", inject_lora(model.clip.visual, rank=2)))
    for name in ("task_0", "task_1"):
        pool.add(name)
        for parameter in pool.parameters(name):
            torch.nn.init.normal_(parameter, std=0.5)
    model.install("routed", RoutedPool(pool, router), "a test")
    return model


# What is predicted -----------------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_what_the_model_gives(model, images):
    with model.evaluating():
        expected = model(images).softmax(1)
    found = model.predict(images, top_k=3)
    assert len(found) == 23 and all(len(prediction.classes) == 3 for prediction in found)
    for prediction, row in zip(found, expected, strict=True):
        assert [c.index for c in prediction.classes] == row.argsort(descending=True)[:3].tolist()
        assert [c.name for c in prediction.classes] == [NAMES[c.index] for c in prediction.classes]
        assert [c.probability for c in prediction.classes] == pytest.approx(row.sort(descending=True)[0][:3].tolist())
        assert prediction.best is prediction.classes[0]
        assert (prediction.module, prediction.out_of_distribution) == (None, None)


def test_one_by_one_is_as_all_together(model, images):
    together = model.predict(images, top_k=7)
    assert all(same(model.predict(images[i : i + 1], top_k=7)[0], together[i]) for i in range(len(images)))
    assert all(map(same, model.predict(images, top_k=7, batch_size=4), together))
    assert all(map(same, model.predict(images.flip(0), top_k=7), reversed(together)))


def test_all_classes_are_listed_where_fewer_than_k_compete(model, images):
    (found,) = model.predict(images[:1], top_k=50)
    assert sorted(names_of(found)) == sorted(NAMES)
    assert sum(c.probability for c in found.classes) == pytest.approx(1)


def test_classes_that_do_not_compete_are_not_listed(images):
    model = mini().set_label_space(LabelSpace.from_names(NAMES, visible="seen"))
    model.competing.met[0, [1, 4]] = True
    found = model.predict(images, top_k=5)
    assert all(sorted(c.index for c in prediction.classes) == [1, 4] for prediction in found)
    assert all(sum(c.probability for c in prediction.classes) == pytest.approx(1) for prediction in found)


def test_equal_logits_are_ordered_by_index():
    logits = torch.tensor([[1.0, 3.0, 3.0, MASKED, 3.0, 1.0]])
    (row,) = most_probable(logits, list("abcdef"), 6)
    assert [c.name for c in row] == ["b", "c", "e", "a", "f"]
    big = torch.zeros(1, 3000)
    assert [c.index for c in most_probable(big, ["x"] * 3000, 3000)[0]] == list(range(3000))


def test_classes_of_one_name_are_told_apart_by_their_index(images):
    space = LabelSpace(("crane", "duck", "crane"), ((0, 1), (2,)), "task")
    model = mini().set_label_space(space)
    (found,) = model.predict(images[:1])
    assert sorted((c.name, c.index) for c in found.classes) == [("crane", 0), ("crane", 2), ("duck", 1)]


def test_a_class_head_has_its_say(model, images):
    model = mini().set_label_space(LabelSpace.from_names(NAMES))
    head = NearestMeanHead()
    with model.evaluating():
        head.fit(model.encode_image(images[:7]), torch.arange(7), 7)
    model.install("class_head", head, "a test")
    assert [prediction.best.index for prediction in model.predict(images[:7])] == list(range(7))
    assert [prediction.best.name for prediction in model.predict(images[:7], ["cup", "heart"])][3] == "cup"


def test_where_a_head_lets_nothing_compete_nothing_is_listed(model, images):
    class Silent(torch.nn.Module):
        def forward(self, features, logits):
            return torch.full_like(logits, MASKED)

    model = mini().set_label_space(LabelSpace.from_names(NAMES))
    model.class_head = Silent()
    (found,) = model.predict(images[:1])
    assert found.classes == () and found.best is None


# Labels of the user's ----------------------------------------------------------------------------------------------


def test_an_open_vocabulary_is_answered_by_its_prompts(model, images):
    labels, templates = ["night", "day", "dawn"], ("a photo of a {}.", "{} in a picture")
    found = model.predict(images, labels, templates=templates)
    space = LabelSpace.from_names(labels, PromptTemplates("two", templates))
    with model.evaluating():
        expected = model.similarity(model.encode_image(images), model.class_features(space)).softmax(1)
    assert [prediction.best.index for prediction in found] == expected.argmax(1).tolist()
    assert [prediction.best.probability for prediction in found] == pytest.approx(expected.amax(1).tolist())


def test_templates_are_the_models_own_where_it_has_one_set(images):
    drawn = PromptTemplates("drawn", ("a drawing of a {}",))
    model = mini().set_label_space(LabelSpace.from_names(NAMES, drawn))
    asked = model.predict(images, ["star", "cup"])
    assert asked == model.predict(images, ["star", "cup"], templates="a drawing of a {}")
    assert asked != model.predict(images, ["star", "cup"], templates="{}")
    assert mini().predict(images, ["star", "cup"]) == mini().predict(
        images, ["star", "cup"], templates="a photo of a {}."
    )


def test_nothing_of_the_model_changes(images):
    model = mini().set_label_space(LabelSpace.from_names(NAMES, visible="seen"))
    model.competing.met[0, 2] = True
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    told = (
        model.get_extra_state(),
        model.competing.get_extra_state(),
        model.label_space,
        [m.training for m in model.modules()],
    )
    drawn = torch.get_rng_state()
    model.predict(images, ["night", "star"])
    model.predict(images)
    model.retrieve(images, "a star")
    after = (
        model.get_extra_state(),
        model.competing.get_extra_state(),
        model.label_space,
        [m.training for m in model.modules()],
    )
    assert told == after and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "labels are a list with the name of one class or more"),
        ("cat", "labels are a list with the name"),
        (["cat", "dog", "cat"], "the label 'cat' is named twice"),
        (["cat", " "], "the class 1 has an empty name"),
        (["cat", 3], "labels are names, not 3"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(model, images, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        model.predict(images, labels)


def test_labels_that_the_tokenizer_cannot_tell_apart_are_warned_of(model, images):
    with pytest.warns(DataWarning, match="same tokens for the classes 'Ü' and 'Ä'"):
        model.predict(images[:1], ["Ü", "Ä", "star"])


# Who has answered ---------------------------------------------------------------------------------------------------


def test_the_module_and_the_routers_verdict_are_told(images):
    model = routed(images)
    found = model.predict(images, top_k=7)
    with model.evaluating():
        names = model.routed.route(model.encode_image_plain(images))
        expected = model(images)
    assert set(names) == {"task_0", "task_1", None}
    assert [prediction.module for prediction in found] == names
    assert [prediction.out_of_distribution for prediction in found] == [name is None for name in names]
    assert [prediction.best.index for prediction in found] == expected.argmax(1).tolist()
    assert all(same(model.predict(images[i : i + 1], top_k=7)[0], found[i]) for i in range(len(images)))
    # Asked for other classes, the same modules answer.
    assert [prediction.module for prediction in model.predict(images, ["night", "day"])] == names


def test_a_dropped_module_does_not_make_its_samples_out_of_distribution(images):
    model = routed(images)
    before = model.predict(images)
    model.routed.pool.drop("task_0")
    after = model.predict(images)
    assert any(prediction.module == "task_0" for prediction in before)
    assert [p.out_of_distribution for p in after] == [p.out_of_distribution for p in before]
    assert [p.module for p in after] == [None if p.module == "task_0" else p.module for p in before]


def test_a_router_that_knows_no_task_has_no_verdict(images):
    model = routed(images)
    model.routed.router = type("Empty", (), {"__len__": lambda self: 0})()
    assert {(p.module, p.out_of_distribution) for p in model.predict(images)} == {(None, None)}


def test_a_model_that_is_told_the_task_says_that_it_needs_it(images):
    model = routed(images)
    model.routed.use_task_labels = True
    with pytest.raises(InputError, match="chooses its modules by the task label of each sample"):
        model.predict(images)


# What is read -------------------------------------------------------------------------------------------------------


def test_paths_pictures_arrays_and_tensors_are_answered_alike(model, tmp_path):
    image = picture(3)
    path = save(tmp_path / "a b/ünïcode 图.png", image)
    expected = model.predict(model.transforms.eval(image)[None])
    for given in (path, str(path), [path], image, [image], np.asarray(image), [np.asarray(image)]):
        assert model.predict(given) == expected
    assert model.predict([path, image]) == model.predict(torch.stack([model.transforms.eval(image)] * 2))


def files(folder):
    """One picture in the modes that files have."""
    image = picture(5, 48, 40)
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [picture(seed, 48, 40) for seed in (5, 6)]
    return {
        "grey": save(folder / "grey.png", image.convert("L")),
        "rgba": save(folder / "rgba.png", image.convert("RGBA")),
        "palette": save(folder / "palette.gif", image.convert("P")),
        "wide": save(folder / "wide.png", Image.fromarray(wide)),
        "cmyk": save(folder / "cmyk.jpg", image.convert("CMYK")),
        "turned": save(folder / "turned.jpg", image, exif=turned),
        "animated": save(folder / "animated.gif", frames[0], save_all=True, append_images=frames[1:]),
        "narrow": save(folder / "narrow.png", image.resize((3, 200))),
        "dot": save(folder / "dot.png", image.resize((1, 1))),
    }


@pytest.mark.parametrize("kind", ["grey", "rgba", "palette", "wide", "cmyk", "turned", "animated", "narrow", "dot"])
def test_files_of_any_mode_are_read_as_benchmarks_read_them(model, tmp_path, kind):
    path = files(tmp_path)[kind]
    expected = model.predict(model.transforms.eval(read_image(path))[None])
    assert model.predict(path) == expected
    if kind != "wide":  # Pillow gives these as 32-bit integers, whose depth the file alone tells
        with Image.open(path) as opened:
            assert model.predict(opened) == expected


def test_a_picture_is_turned_as_its_camera_was_held(model, tmp_path):
    paths = files(tmp_path)
    with Image.open(paths["turned"]) as opened:
        upright = np.asarray(opened.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    assert model.predict(paths["turned"]) == model.predict(upright)
    assert model.predict(paths["turned"]) != model.predict(picture(5, 48, 40))


def test_a_file_that_cannot_be_read_is_named(model, tmp_path):
    broken = truncate(save(tmp_path / "broken.png"))
    for bad, sentence in (
        (broken, "broken.png cannot be decoded"),
        (tmp_path / "none.png", "there is no image file at"),
        (tmp_path, "is no regular file"),
    ):
        with pytest.raises(InputError, match=sentence):
            model.predict([picture(0), bad])
    with Image.open(broken) as opened, pytest.raises(InputError, match="image 1 cannot be decoded"):
        model.predict([picture(0), opened])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (torch.zeros(3, 32, 32), "a tensor is a batch of floating-point images"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "not uint8"),
        (torch.zeros(1, 3, 24, 24), r"takes images \[batch, 3, 32, 32\]"),
        ([torch.zeros(3, 32, 32)], "give tensors as one batch"),
        (np.zeros((2, 8, 8, 3), np.uint8), "give a list of arrays"),
        (3, "images are paths, PIL images or arrays, not a int"),
        ([None], "image 0 is a path, a PIL image or an array, not a NoneType"),
    ],
)
def test_what_is_no_image_is_refused(model, given, sentence):
    with pytest.raises(InputError, match=sentence):
        model.predict(given)


def test_no_images_have_no_predictions(model):
    assert model.predict([]) == [] and model.predict(torch.zeros(0, 3, 32, 32)) == []


def test_logits_that_are_no_numbers_are_refused(model, images):
    broken = images.clone()
    broken[5, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="no answer to image 5: a logit is not a number"):
        model.predict(broken, batch_size=4)


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, None])
def test_numbers_are_checked(model, images, bad):
    with pytest.raises(InputError, match="top_k"):
        model.predict(images, top_k=bad)
    with pytest.raises(InputError, match="batch size"):
        model.predict(images, batch_size=bad)


def test_a_model_without_classes_asks_for_some(images):
    with pytest.raises(InputError, match="mini has no label space: say with labels which classes there are"):
        mini().predict(images)
    with pytest.raises(InputError, match="templates are for labels"):
        mini().set_label_space(LabelSpace.from_names(NAMES)).predict(images, templates="{}")
