"""Images found for texts, and texts for images."""

from __future__ import annotations

import warnings

import pytest
import torch
from mini import mini
from real_files import picture, save

from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.models.retrieve import BestMatches, retrieve_texts

QUERIES = ["a red star", "two blue hearts", "night"]
ROUNDING = 2e-6


@pytest.fixture(scope="module")
def model():
    return mini()


@pytest.fixture(scope="module")
def images():
    return torch.randn(23, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def cosines(model, images):
    with model.evaluating():
        return model.encode_text(model.tokenize(QUERIES)) @ model.encode_image(images).T


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_most_similar_images_come_first(model, images, cosines, batch_size):
    found = model.retrieve(images, QUERIES, top_k=4, batch_size=batch_size)
    for matches, row in zip(found, cosines, strict=True):
        assert [match.index for match in matches] == row.argsort(descending=True)[:4].tolist()
        assert [match.similarity for match in matches] == pytest.approx(
            row.sort(descending=True)[0][:4].tolist(), abs=ROUNDING
        )


def test_a_text_alone_is_a_query_and_everything_is_found_where_there_is_less(model, images, cosines):
    (matches,) = model.retrieve(images[:3], QUERIES[1], top_k=10)
    assert [match.index for match in matches] == cosines[1, :3].argsort(descending=True).tolist()
    assert model.retrieve([], QUERIES) == [[], [], []]


def test_matches_are_called_by_their_paths(model, tmp_path):
    paths = [save(tmp_path / f"{seed}.png", picture(seed)) for seed in range(5)]
    (matches,) = model.retrieve([*paths, picture(7)], "a star")
    assert {match.item: match.index for match in matches} == {None: 5, **{str(p): i for i, p in enumerate(paths)}}
    with pytest.raises(InputError, match="there is no image file at"):
        model.retrieve([paths[0], tmp_path / "none.png"], "a star")


def test_equally_similar_ones_come_in_their_order_over_batches():
    best = BestMatches(torch.eye(2), top_k=3)
    for start in (0, 2, 4):
        best.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [f"{start}", f"{start + 1}"])
    first, second = best.result()
    assert [match.item for match in first] == ["0", "2", "4"] and [match.item for match in second] == ["1", "3", "5"]
    best.add(torch.tensor([[0.0, 1.0]]), ["6"])
    assert [match.item for match in best.result()[1]] == ["1", "3", "5"] and best.searched == 7


def test_no_more_than_the_best_are_kept():
    best = BestMatches(torch.randn(4, 8), top_k=5)
    for start in range(0, 400, 20):
        best.add(torch.randn(20, 8), [str(start + i) for i in range(20)])
    assert all(len(of_query) == 5 for of_query in best._items) and best._scores.shape == (4, 5)


def test_texts_are_found_for_images(model, images, cosines):
    found = retrieve_texts(model, images[:4], QUERIES, top_k=2, batch_size=3)
    for matches, column in zip(found, cosines.T, strict=False):
        order = column.argsort(descending=True)[:2].tolist()
        assert [match.item for match in matches] == [QUERIES[i] for i in order]
    assert len(found) == 4


def test_a_query_beyond_the_context_is_said(model, images):
    with pytest.warns(DataWarning, match="the query 'star star .* is longer than the 20 tokens that mini reads"):
        (matches,) = model.retrieve(images, "star " * 40, top_k=1)
    assert len(matches) == 1
    with pytest.warns(DataWarning, match="2 of 3 texts are longer than the 20 tokens"):
        model.retrieve(images, ["star " * 40, "moon", "moon " * 30])


def test_words_that_the_model_does_not_have_are_said(model, images):
    with pytest.warns(DataWarning) as said:
        model.retrieve(images, "a red hedgehog on a ground of moss", top_k=1)
    (sentence,) = [str(of.message) for of in said]
    assert sentence.startswith("mini has no word for 'hedgehog', 'moss', which the query 'a red hedgehog ")
    assert said[0].filename == __file__
    with pytest.warns(
        DataWarning, match=r"no word for \"Don't\", 'é', '猫', which .*: it reads them as single letters, or"
    ):
        model.retrieve(images, "Don't, don't: é 猫, a red star's", top_k=1)
    with pytest.warns(DataWarning, match=r"no word for 'bb', .* and 2 more, which the texts have"):
        retrieve_texts(model, images[:1], [f"a {letter * 2}" for letter in "bcdefgh"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.retrieve(images, ["a red star", "the letter b", "7"], top_k=1)


@pytest.mark.parametrize(
    ("queries", "sentence"),
    [([], "there is no query"), ([""], "query 0 is no text but ''"), (["a", 3], "query 1 is no text")],
)
def test_queries_that_are_none_are_refused(model, images, queries, sentence):
    with pytest.raises(InputError, match=sentence):
        model.retrieve(images, queries)


def test_features_that_are_no_numbers_are_refused(model, images):
    broken = images.clone()
    broken[6] = torch.nan
    with pytest.raises(InputError, match="mini has no feature for image 6"):
        model.retrieve(broken, "a star", batch_size=4)
