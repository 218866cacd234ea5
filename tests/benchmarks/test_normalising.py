"""The hastened end of a transform beside torchvision's own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms as T

from avalanche_vlm.benchmarks.normalising import in_place
from avalanche_vlm.benchmarks.transforms import ImageTransform

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ENDING = [T.ToTensor(), T.Normalize(MEAN, STD)]
CROP = T.Compose([T.Resize(16), T.CenterCrop(16), *ENDING])


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 27)) -> Image.Image:
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(
    "transform",
    [CROP, T.Compose(ENDING), image_transform(16, False, MEAN, STD), image_transform(16, False, resize_mode="longest")],
    ids=["torchvision", "ending alone", "open_clip", "open_clip, padded"],
)
def test_every_bit_is_theirs(transform):
    ours = in_place(transform)
    assert ours is not transform
    for size in ((40, 27), (16, 16), (1, 5), (300, 200)):
        assert torch.equal(ours(picture(size=size)), transform(picture(size=size)))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(picture()), transform(picture()))


def test_random_steps_draw_as_they_did():
    transform = image_transform(16, True, MEAN, STD)
    found = []
    for one in (transform, in_place(transform)):
        torch.manual_seed(3)
        found.append(torch.stack([one(picture(size=(90, 90))) for _ in range(3)]))
    assert torch.equal(*found) and not torch.equal(found[0][0], found[0][1])


def test_pictures_and_numbers_of_other_kinds_are_as_they_were():
    grey = T.Compose([T.ToTensor(), T.Normalize((0.5,), (0.2,))])
    assert torch.equal(in_place(grey)(picture("L")), grey(picture("L")))
    torch.set_default_dtype(torch.float64)
    try:
        found, theirs = in_place(CROP)(picture()), CROP(picture())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float64 and torch.equal(found, theirs)


def test_a_default_device_has_no_say_in_it():
    wanted = CROP(picture())
    torch.set_default_device("meta")
    try:
        found = in_place(CROP)(picture())
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, wanted)


def test_a_step_that_works_on_its_picture_leaves_ones_own_alone():
    def shrunk(image):
        image.thumbnail((16, 16))
        return T.functional.to_tensor(image)

    mine = picture(size=(40, 40))
    assert ImageTransform(16, MEAN, STD, resize=shrunk)(mine).shape == (3, 16, 16) and mine.size == (40, 40)


class Doubled(T.ToTensor):
    def __call__(self, pic):
        return 2 * super().__call__(pic)


class Longer(T.Compose):
    pass


@pytest.mark.parametrize(
    "transform",
    [
        T.ToTensor(),
        T.Compose([T.ToTensor()]),
        T.Compose([Doubled(), T.Normalize(MEAN, STD)]),
        T.Compose([T.ToTensor(), T.Normalize(MEAN, (1.0, 0.0, 1.0))]),
        T.Compose([*ENDING, T.RandomErasing(0.5)]),
        Longer(ENDING),
        T.Compose([T.ToTensor(), T.Normalize(0.5, 0.5)]),
        T.Compose([lambda picture: picture, *ENDING]),
    ],
    ids=[
        "no Compose",
        "one step",
        "somebody's own",
        "division by zero",
        "a step behind",
        "somebody's Compose",
        "one number",
        "a step of ones own",
    ],
)
def test_what_is_not_theirs_is_left_alone(transform):
    assert in_place(transform) is transform
