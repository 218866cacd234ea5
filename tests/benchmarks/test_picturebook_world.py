"""Scenes, captions, pictures and styles of the embedded world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.benchmarks.picturebook import captions, styles
from avalanche_vlm.benchmarks.picturebook.render import SIDE, Jitter, Look, render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import CARDINALITY, NAMES, Scenes, distinct_scenes, sample_scenes
from avalanche_vlm.models.tiny import build_tokenizer


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one(**attributes: int) -> Scenes:
    values = {**dict.fromkeys(CARDINALITY, 0), **attributes}
    return Scenes(**{name: np.array([value]) for name, value in values.items()})


def test_every_combination_of_attributes_has_a_code_of_its_own():
    grid = np.indices(tuple(CARDINALITY.values())).reshape(len(CARDINALITY), -1)
    every = Scenes(**dict(zip(CARDINALITY, grid, strict=True)))
    assert len(np.unique(every.code)) == len(every)
    # The hash splits about one in ten off, over every value of every attribute.
    assert 0.09 < every.held_out.mean() < 0.11
    for name, count in CARDINALITY.items():
        shares = [every.held_out[getattr(every, name) == value].mean() for value in range(count)]
        assert min(shares) > 0.05 and max(shares) < 0.15


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_keep_to_their_side_of_the_split(held_out):
    drawn = sample_scenes(rng(), 3000, held_out=held_out)
    assert (drawn.held_out == held_out).all()
    assert (drawn.pattern[drawn.is_glyph] == 0).all()
    for name, count in CARDINALITY.items():
        assert set(getattr(drawn, name)) == set(range(count))


def test_fixed_attributes_are_kept_and_unknown_ones_refused():
    drawn = sample_scenes(rng(), 50, colour=3, object=np.arange(50) % 7)
    assert (drawn.colour == 3).all() and (drawn.object == np.arange(50) % 7).all()
    with pytest.raises(ValueError, match="unknown scene attribute 'weight'"):
        sample_scenes(rng(), 2, weight=1)
    everything = dict.fromkeys(CARDINALITY, 0)
    wrong_side = not one().held_out[0]
    with pytest.raises(ValueError, match="exist on the held_out"):
        sample_scenes(rng(), 1, held_out=bool(wrong_side), **everything)


def test_distinct_scenes_are_distinct():
    drawn = distinct_scenes(rng(), 500, held_out=True)
    assert len(np.unique(drawn.code)) == 500
    with pytest.raises(ValueError, match="distinct scenes"):
        distinct_scenes(rng(), 50_000, held_out=True)


def test_full_captions_name_everything():
    assert captions.caption(one(object=4, pattern=1, size=2, ground=3, position=2)) == [
        "a large striped red star at the top on a navy ground"
    ]
    keep = np.array([[False, True, False, False, False, False]])
    assert captions.caption(one(colour=5), keep, np.array([1])) == ["a picture of a blue shape"]


@given(st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_equal_full_captions_mean_equal_scenes(seed, n):
    drawn = sample_scenes(rng(seed), n)
    texts = captions.caption(drawn)
    same_text = np.array([[a == b for a in texts] for b in texts])
    assert (same_text == (drawn.code[:, None] == drawn.code[None])).all()
    full = np.ones((n, 6), dtype=bool)
    assert (captions.true_of(drawn, full) == same_text).all()


def test_true_of_ignores_what_a_caption_does_not_mention():
    two = Scenes(*(np.array([0, 0]) for _ in range(5)), position=np.array([0, 1]))
    mentions = np.ones((2, 6), dtype=bool)
    mentions[0, captions.ATTRIBUTES.index("position")] = False
    assert captions.true_of(two, mentions).tolist() == [[True, False], [True, True]]


def test_random_mentions_always_say_something():
    mentions = captions.random_mentions(rng(), 4000)
    assert mentions.any(1).all()
    assert 0.3 < mentions.all(1).mean() < 0.4


def test_the_vocabulary_and_the_context_hold_every_caption():
    tokenizer = build_tokenizer()
    assert list(tokenizer.words) == captions.vocabulary()
    drawn = sample_scenes(rng(), 2000)
    texts = captions.caption(drawn, intro=np.ones(len(drawn), dtype=int))
    tokens = tokenizer(texts)
    assert (tokens == tokenizer.end).any(1).all()
    assert all(tokenizer.decode(row) == text for row, text in zip(tokens[:200], texts, strict=False))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    def bytes_of(seed):
        generator = rng(seed)
        return to_uint8(render(sample_scenes(generator, 300), generator)).tobytes()

    assert bytes_of(3) == bytes_of(3)
    assert bytes_of(3) != bytes_of(4)


def test_pictures_show_what_the_scene_says():
    still = Jitter(0, 0, 0, 0, 0)
    large = one(object=1, colour=5, ground=0, size=2, position=4)  # a plain blue square in the middle, on white
    picture = to_uint8(render(large, rng(), still))[0]
    assert picture.shape == (3, SIDE, SIDE) and picture.dtype == np.uint8
    assert picture[:, 16, 16].tolist() == [40, 70, 220] and picture[:, 0, 0].tolist() == [250, 250, 250]
    left = render(one(object=0, ground=1, position=0), rng(), still)[0].mean(-1)
    right = render(one(object=0, ground=1, position=1), rng(), still)[0].mean(-1)
    assert left[:, :16].sum() > 2 * left[:, 16:].sum()
    np.testing.assert_allclose(left, right[:, ::-1], atol=1e-5)
    inked = [
        (render(one(object=0, ground=1, size=s, position=4), rng(), still)[0] > 0.2).any(-1).sum() for s in range(3)
    ]
    assert inked[0] < inked[1] < inked[2]


def test_every_shape_glyph_and_pattern_looks_different():
    still = Jitter(0, 0, 0, 0, 0)
    for name in ("object", "pattern", "colour", "ground", "size", "position"):
        variants = [
            render(one(**{name: v, **({"size": 2} if name != "size" else {})}), rng(), still)
            for v in range(CARDINALITY[name])
        ]
        flat = np.stack([v.ravel() for v in variants])
        distances = ((flat[:, None] - flat[None]) ** 2).mean(-1) + np.eye(len(flat))
        assert distances.min() > 1e-4, NAMES[name][int(distances.argmin() // len(flat))]


def test_looks():
    fill = render(one(object=4, ground=1, size=2), rng(), look=Look(full_bleed=True))
    assert (fill.max(-1) > 0.5).all()
    stroke = render(one(object=0, ground=1, size=2, position=4), rng(), Jitter(0, 0, 0, 0, 0), Look(stroke=0.05))[0]
    assert stroke[16, 16].max() < 0.1 < stroke.max()


@pytest.mark.parametrize("name", styles.STYLES)
def test_styles_keep_the_shape_and_are_seeded(name):
    pictures = render(sample_scenes(rng(), 40), rng())
    before = pictures.copy()
    styled = styles.STYLES[name](pictures, rng(1))
    np.testing.assert_array_equal(pictures, before)
    assert styled.shape == pictures.shape and np.isfinite(styled).all()
    np.testing.assert_array_equal(styled, styles.STYLES[name](pictures, rng(1)))
    moved = np.abs(to_uint8(styled).astype(int) - to_uint8(pictures)).mean()
    assert (moved == 0) if name == "clean" else (moved > 8)
