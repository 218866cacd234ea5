"""Captions of the picturebook, read and drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import tiny as tiny_vlm

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.picturebook import captions
from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator, attributes_of
from avalanche_vlm.benchmarks.picturebook.scenes import CARDINALITY, NAMES, OBJECTS, SHAPES, Scenes, sample_scenes
from avalanche_vlm.benchmarks.picturebook.tasks import MTIL_LIKE, TEMPLATES, RealDigits
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.generators import generate_pairs

SMALL = {"n_train": 20, "n_test": 20, "n_held_out": 10, "n_reference": 4}


def values(scenes: Scenes, i: int) -> dict[str, int]:
    return {name: int(getattr(scenes, name)[i]) for name in CARDINALITY}


@given(
    st.fixed_dictionaries({name: st.integers(0, size - 1) for name, size in CARDINALITY.items()}),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(0, len(captions.INTROS) - 1),
)
@settings(max_examples=300, deadline=None)
def test_parsing_undoes_captioning(scene, mentions, intro):
    scenes = Scenes(**{name: np.array([value]) for name, value in scene.items()})
    (text,) = captions.caption(scenes, np.array([mentions]), np.array([intro]))
    mentioned = [name for name, kept in zip(captions.ATTRIBUTES, mentions, strict=True) if kept]
    assert attributes_of(text) == {name: scene[name] for name in mentioned}
    assert attributes_of(text.upper()) == attributes_of(text)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_scenes_show_what_captions_name(world, seed):
    rng = np.random.default_rng(world)
    texts = captions.caption(sample_scenes(rng, 40), captions.random_mentions(rng, 40))
    scenes = PicturebookGenerator().scenes(texts, seed)
    for i, text in enumerate(texts):
        assert attributes_of(text).items() <= values(scenes, i).items()


@pytest.mark.parametrize("task", MTIL_LIKE, ids=lambda task: task.name)
def test_every_prompt_of_the_mtil_like_tasks_means_its_class(task):
    if isinstance(task, RealDigits):
        classes = [(name, {"object": len(SHAPES) + i}) for i, name in enumerate(task.class_names)]
    else:
        classes = task.classes
    for name, attributes in classes:
        for prompt in task.templates.fill(name):
            assert attributes_of(prompt) == attributes


@pytest.mark.parametrize("name", ["mtil_like", "class_incremental", "domain_incremental", "time_incremental"])
def test_every_prompt_of_the_streams_label_spaces_is_read(name):
    space = getattr(picturebook, name)(**SMALL).label_space
    for class_name, prompts in zip(space.class_names, space.prompts(), strict=True):
        for prompt in prompts:
            named = [NAMES[attribute][value] for attribute, value in attributes_of(prompt).items()]
            assert sorted(" ".join(named).split()) == sorted(class_name.split())
    if name != "mtil_like":
        assert [OBJECTS[attributes_of(prompts[0])["object"]] for prompts in space.prompts()] == list(space.class_names)


@pytest.mark.parametrize("attribute", ["size", "position"])
def test_the_prompts_of_the_held_out_attributes_are_read(attribute):
    for i, name in enumerate(NAMES[attribute]):
        assert all(attributes_of(prompt) == {attribute: i} for prompt in TEMPLATES[attribute].fill(name))


def test_unknown_words_are_named_with_their_caption():
    with pytest.raises(InputError, match="no word 'crimson', which the caption 'a crimson star on a beige ground'"):
        attributes_of("a crimson star on a beige ground")
    with pytest.raises(InputError, match="no word 'photo'"):
        PicturebookGenerator()(["a star", "a photo of a star"], 0)


@pytest.mark.parametrize("text", ["", "red star", "a red", "a red blue star", "a star red", "a digit", "a star a star"])
def test_known_words_in_another_order(text):
    with pytest.raises(InputError, match=f"{text!r} is not in the picturebook's order"):
        attributes_of(text)


def test_a_picture_depends_on_its_prompt_the_seed_and_its_index_only():
    generator = PicturebookGenerator()
    texts = ["a star", "a striped shape", "a small red digit one on the left", "a star"]
    pictures = generator(texts, 7)
    assert pictures.shape == (4, 3, 32, 32) and pictures.dtype == torch.uint8
    assert torch.equal(pictures, generator(texts, 7))
    changed = generator(["a ring", "a striped shape", "a shape", "a star", "a heart"], 7)
    same = [torch.equal(a, b) for a, b in zip(pictures, changed, strict=False)]
    assert same == [False, True, False, True]
    assert not torch.equal(pictures[0], pictures[3])
    assert not (generator(texts, 8) == pictures).flatten(1).all(1).any()
    assert generator([], 0).shape == (0, 3, 32, 32)
    with pytest.raises(InputError, match="from 0, not -1"):
        generator(texts, -1)


def test_what_is_not_named_varies_over_all_that_shapes_can_be():
    scenes = PicturebookGenerator().scenes(["a shape"] * 400, 0)
    for name, size in CARDINALITY.items():
        possible = range(len(SHAPES)) if name == "object" else range(size)
        assert set(getattr(scenes, name)) == set(possible)
    glyphs = PicturebookGenerator().scenes(["a letter a", "a digit two"] * 50, 0)
    assert (glyphs.pattern == 0).all() and len(set(glyphs.colour)) == 9
    assert PicturebookGenerator().scenes(["a striped letter a"], 0).pattern.tolist() == [1]


def test_held_out_combinations_are_drawn_only_where_the_caption_leaves_no_choice():
    rng = np.random.default_rng(0)
    every_side = sample_scenes(rng, 300, held_out=True)
    mentions = np.ones((300, 6), dtype=bool)
    full = PicturebookGenerator().scenes(captions.caption(every_side, mentions), 0)
    assert (full.code == every_side.code).all() and full.held_out.all()
    mentions[:, captions.ATTRIBUTES.index("ground")] = False
    free = PicturebookGenerator().scenes(captions.caption(every_side, mentions), 0)
    assert (free.object == every_side.object).all() and not free.held_out.any()


@pytest.mark.parametrize("attribute", ["object", "colour", "ground", "pattern", "position"])
def test_the_shipped_model_sees_what_the_prompts_say(attribute):
    model = tiny_vlm()
    names = SHAPES if attribute == "object" else NAMES[attribute]
    space = LabelSpace.from_names(names, TEMPLATES[attribute])
    prompts = [TEMPLATES[attribute].fill(name)[0] for name in names]
    pixels, texts = generate_pairs(PicturebookGenerator(), prompts, 200, 0)
    y = torch.tensor([prompts.index(text) for text in texts])
    with model.evaluating():
        features = model.encode_image(model.transforms.eval.from_uint8(pixels))
        predicted = (features @ model.class_features(space).T).argmax(1)
    assert (predicted == y).float().mean() > 0.75
