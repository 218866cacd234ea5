"""Texts that are longer than the context are counted, whatever tokenizer reads them."""

from __future__ import annotations

import warnings

import pytest
import torch
from made import tiny as tiny_vlm
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from avalanche_vlm.benchmarks.context import cut_texts
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.benchmarks.sources.table import table_stream
from avalanche_vlm.errors import DataWarning, InputError

WORDS = WordTokenizer(["a", "red", "star", "on", "the", "ground"], context_length=8)
SIMPLE = SimpleTokenizer(context_length=8)


class PaddedWithEnd:
    """In the manner of SigLIP's: no start, padding and end are the same token."""

    def __call__(self, texts, context_length=8):
        rows = [[10 + ord(word[0]) for word in text.split()] for text in texts]
        return torch.tensor([(row[: context_length - 1] + [1] * context_length)[:context_length] for row in rows])


class ClassAtEnd:
    """In the manner of CLIPS: a class token in the last place of every text."""

    def __call__(self, texts, context_length=8):
        found = []
        for text in texts:
            row = [1, *(10 + ord(word[0]) for word in text.split())][: context_length - 2]
            row.append(2)
            found.append(row + [0] * (context_length - 1 - len(row)) + [3])
        return torch.tensor(found)


def without_room(texts):
    """A tokenizer of one context only."""
    return WORDS(texts)


@pytest.mark.parametrize(
    ("tokenizer", "room"),
    [(WORDS, 6), (SIMPLE, 6), (PaddedWithEnd(), 7), (ClassAtEnd(), 5), (without_room, 6)],
    ids=["words", "simple", "siglip", "clips", "fixed"],
)
def test_a_text_is_cut_from_one_token_beyond_the_room_on(tokenizer, room):
    words = ["red", "star", "on", "a", "ground", "the", "star", "red", "a", "on"] * 4
    texts = [" ".join(words[:n]) for n in (0, 1, room - 1, room, room + 1, room + 2, 40)]
    assert cut_texts(texts, tokenizer) == [4, 5, 6]


def test_a_word_that_is_cut_in_two_and_punctuation_that_no_token_stands_for():
    assert cut_texts(["a red star zq", "a red star zqx", "a red star zqxw", "a red star zqx!"], without_room) == [2]
    assert cut_texts(["a red star zqx!", "a red star zqxw"], WORDS) == [1]
    assert cut_texts([], WORDS) == []


def table(folder, captions):
    rows = ["image,caption"]
    for number, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{caption}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


def test_captions_that_are_cut_are_counted_and_said_once(tmp_path):
    long = "a red star on the ground on a red star"
    path = table(tmp_path, [f"a red star {'abcdefghij'[n % 10]}" for n in range(8)] + [long, long])

    def read(tokenizer):
        return table_stream(path, train_transform=None, eval_transform=None, tokenizer=tokenizer)

    with pytest.warns(DataWarning, match=r"2 of 10 captions \(20 %\) are longer than the 8 tokens .*'a red") as caught:
        benchmark = read(WORDS)
    assert len(caught) == 1
    assert str(caught[0].message) in benchmark.data.notes
    cut = benchmark.data.as_json()["cut"]
    assert sum(part["cut"] for part in cut.values()) == 2
    assert sum(part["captions"] for part in benchmark.data.cut.values()) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(WordTokenizer(WORDS.words, 20)).data.as_json()["cut"] == {}


def test_reference_and_held_out_captions_are_counted_too():
    from dataclasses import replace

    from avalanche_vlm.benchmarks.context import note_cut_captions
    from avalanche_vlm.benchmarks.picturebook.streams import pairs

    benchmark = pairs(n_train=4, n_test=2, n_held_out=4, n_reference=4, domains=("clean",))
    captions = ("red " * 30, *benchmark.reference.captions[1:])
    benchmark.reference = replace(benchmark.reference, captions=captions)
    tokenizer = tiny_vlm().tokenizer
    with pytest.warns(DataWarning, match=r"1 of \d+ captions .*\(1 of 4 in reference\)") as caught:
        note_cut_captions(benchmark, tokenizer)
        note_cut_captions(benchmark, tokenizer)
    assert len(caught) == 1 and benchmark.data.as_json()["cut"] == {"reference": {"captions": 4, "cut": 1}}
    assert any(part.startswith("held-out ") for part in benchmark.data.cut)


def test_a_prompt_that_loses_its_class_name_is_refused():
    model = tiny_vlm()
    template = "a picture of " + "a large red star on the ground " * 3 + "{}"
    space = LabelSpace.from_names(["ring", "cross"], PromptTemplates("long", ("a {}.", template)))
    with pytest.raises(InputError, match=r"template 'a picture .*\{\}' leaves no room for the name of class 'ring'"):
        model.set_label_space(space)
    with pytest.raises(InputError, match="leaves no room"):
        model.class_features(space)
    assert model.label_space is None


def test_a_name_that_is_half_cut_by_its_template_is_refused_and_a_description_is_not():
    model = tiny_vlm()
    filler = "a red star on the ground a red star on the ground a red star on the "  # 17 of 18 words
    with pytest.raises(InputError, match="no room for the name of class 'large ring'"):
        model.set_label_space(LabelSpace.from_names(["large ring"], PromptTemplates("half", (filler + "{}",))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_label_space(LabelSpace.from_names(["ring"], PromptTemplates("fits", (filler + "{}",))))
    description = "a large ring on the ground " * 5
    with pytest.warns(DataWarning, match=r"1 of 2 class prompts \(50 %\) is longer than the 20 tokens") as caught:
        model.set_label_space(LabelSpace.from_names([description, "star"]))
    assert len(caught) == 1
    with pytest.warns(DataWarning, match="2 of 2 class prompts"):
        after = PromptTemplates("after", ("a {} " + filler,))
        model.set_label_space(LabelSpace.from_names(["ring", "star"], after))
