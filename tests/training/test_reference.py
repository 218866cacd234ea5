"""What student and teachers are compared on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.benchmarks import ImageText, ReferencePairs
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.reference import CurrentBatch, ReferenceSet, random_sentences

SPACE = LabelSpace(tuple("abcdef"), ((0, 2, 4), (1, 3, 5)), "union", (PromptTemplates("t", ("a {}", "the {}")),))


class Model(VLM):
    """As much of a model as a reference reads."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    label_space = SPACE
    tokenizer = staticmethod(lambda texts: torch.tensor([[len(t), *t.encode()[:3].ljust(3)] for t in texts]))
    transforms = SimpleNamespace(eval=SimpleNamespace(from_uint8=lambda pixels: pixels / 255))

    def prompts(self, classes):
        assert classes.tolist() == sorted(set(classes.tolist()))
        return SimpleNamespace(classes=classes.tolist())


class Strategy:
    """A strategy at some minibatch."""

    device = torch.device("cpu")

    def __init__(self, classes=(), x=None, y=None, label_space=SPACE) -> None:
        self.model = Model()
        self.experience = SimpleNamespace(classes_in_this_experience=set(classes), label_space=label_space)
        self.mb_x, self.mb_y = x, y


def seen_by_forward(strategy, competing=range(6)) -> ForwardFeatures:
    classes = torch.tensor(list(competing))
    return ForwardFeatures(torch.randn(len(strategy.mb_x), 8), torch.randn(len(classes), 8), classes)


def experience(reference, classes, batches) -> list:
    """What a task gives."""
    reference.start(Strategy(classes))
    found = []
    for y in batches:
        strategy = Strategy(classes, torch.randn(len(y), 3, 4, 4), torch.tensor(y))
        found.append((strategy, reference.next(strategy, seen_by_forward(strategy))))
    reference.end()
    return found


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_classes_of_the_batch_of_the_task_and_of_earlier_tasks(batches):
    for kind in ("batch", "task", "seen"):
        reference = CurrentBatch(kind)
        for task, classes in enumerate(SPACE.tasks):
            for strategy, inputs in experience(reference, classes, batches):
                y = strategy.mb_y.tolist()
                earlier = sorted(SPACE.tasks[0]) if task else []
                texts = {"batch": sorted(set(y)), "task": sorted(classes), "seen": earlier}[kind]
                if not texts:
                    assert inputs is None
                    continue
                assert inputs.texts.classes == inputs.text_rows.tolist() == texts
                assert [texts[n] if n >= 0 else None for n in inputs.text_of_image.tolist()] == [
                    c if c in texts else None for c in y
                ]
                assert inputs.images is strategy.mb_x and inputs.image_rows is None


@pytest.mark.parametrize(
    ("competing", "among"), [(range(6), True), ((0, 2, 4, 5), True), ((0, 4), False), ((3,), False)]
)
def test_texts_of_the_forward_pass_are_taken_if_all_are_there(competing, among):
    reference = CurrentBatch("task")
    strategy = Strategy((0, 2, 4), torch.randn(2, 3, 4, 4), torch.tensor([4, 0]))
    reference.start(strategy)
    forward = seen_by_forward(strategy, competing)
    inputs = reference.next(strategy, forward)
    assert inputs.student_images is forward.images
    if among:
        assert torch.equal(inputs.student_texts, forward.texts[[list(competing).index(c) for c in (0, 2, 4)]])
    else:
        assert inputs.student_texts is None
    # Where every known task's logits are asked for, there are no texts to take.
    assert reference.next(strategy, ForwardFeatures(forward.images)).student_texts is None


def pairs(captions: list[str]) -> tuple[ImageText, ForwardFeatures]:
    tokens = Model.tokenizer(captions)
    distinct, owner = torch.unique(tokens, dim=0, return_inverse=True)
    features = ForwardFeatures(torch.randn(len(tokens), 8), torch.randn(len(distinct), 8), None, distinct, owner)
    return ImageText(torch.randn(len(tokens), 3, 4, 4), tokens), features


@pytest.mark.parametrize("kind", ["batch", "task"])
def test_captions_have_a_number_for_as_long_as_a_task(kind):
    reference = CurrentBatch(kind)
    for _ in range(2):
        reference.start(Strategy((7, 8), label_space=None))
        number: dict[tuple, int] = {}
        for captions in (["cab", "ab", "cab"], ["ab", "b"], ["cab", "b", "abc"]):
            x, forward = pairs(captions)
            inputs = reference.next(Strategy((7, 8), x, torch.arange(len(captions)), None), forward)
            assert torch.equal(inputs.texts.tokens[inputs.text_of_image], x.tokens) and inputs.texts.counts is None
            assert inputs.student_texts is forward.texts and inputs.images is x.image
            for row, tokens in zip(inputs.text_rows.tolist(), inputs.texts.tokens.tolist(), strict=True):
                assert number.setdefault(tuple(tokens), row) == row
        assert sorted(number.values()) == [0, 1, 2, 3]
        reference.end()
    assert len(reference._seen) == 0  # caption identities are no classes


@pytest.mark.parametrize("per_step", [None, 2, 5, 9])
def test_a_list_of_texts_comes_whole_or_in_passes(per_step):
    texts = ["aa", "b", "c", "dd", "e"]
    reference = CurrentBatch(texts, Model.tokenizer, texts_per_step=per_step, seed=3)
    everything, drawn = Model.tokenizer(texts), []
    for x in (torch.randn(3, 3, 4, 4), pairs(["a", "b", "c"])[0]):
        for _ in range(2):
            inputs = reference.next(Strategy((0,), x, torch.zeros(3)), ForwardFeatures(torch.randn(3, 8)))
            assert torch.equal(inputs.texts.tokens, everything[inputs.text_rows]) and inputs.text_of_image is None
            assert inputs.images.shape == (3, 3, 4, 4) and inputs.student_texts is None
            drawn.append(inputs.text_rows)
    if per_step is None:
        assert drawn == [slice(None)] * 4 and reference.stored().ram == everything.nbytes
        return
    assert all(len(rows) == min(per_step, 5) and rows.tolist() == sorted(set(rows.tolist())) for rows in drawn)
    if per_step == 2:
        assert len(torch.cat(drawn[:2]).unique()) == len(torch.cat(drawn[2:]).unique()) == 4
    assert reference.stored().ram > everything.nbytes + 5000  # the state of the passes


def test_texts_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="batch, task, seen or a list, not 'all'"):
        CurrentBatch("all")
    with pytest.raises(InputError, match=r"needs the model's tokenizer"):
        CurrentBatch(["a"])
    for nothing in ([], torch.zeros(0, 4, dtype=torch.long)):
        with pytest.raises(InputError, match="the list of texts is empty"):
            CurrentBatch(nothing, Model.tokenizer)
    with pytest.raises(InputError, match="texts_per_step is for a list of texts"):
        CurrentBatch("task", texts_per_step=4)
    with pytest.raises(InputError, match="batch size is a whole number of 1 or more, not 0"):
        CurrentBatch(["a"], Model.tokenizer, texts_per_step=0)
    x, forward = pairs(["a", "b"])
    reference = CurrentBatch("seen")
    reference.start(Strategy((7, 8), label_space=None))
    with pytest.raises(InputError, match="this one has image-text pairs"):
        reference.next(Strategy((7, 8), x, torch.arange(2), None), forward)


def reference_pairs(captions, n=None) -> ReferencePairs:
    n = len(captions) if n is None else n
    return ReferencePairs(torch.arange(n * 3).reshape(n, 3, 1, 1).byte(), tuple(captions), lambda x: x / 2)


@given(
    captions=st.lists(st.sampled_from(["a", "b", "ab", "abc"]), min_size=1, max_size=9),
    size=st.integers(1, 12),
    chunk=st.integers(1, 5),
    texts=st.sampled_from(["batch", "all"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_set_gives_every_pair_once_per_pass_with_its_caption(captions, size, chunk, texts, seed):
    found = reference_pairs(captions)
    reference = ReferenceSet(Model(), found, size, texts, seed)
    chunks = list(reference.chunks(chunk))
    images = torch.cat([part.images for part in chunks if part.images is not None])
    tokens = torch.cat([part.texts.tokens for part in chunks if part.texts is not None])
    assert torch.equal(images, found.images / 2) and len(tokens.unique(dim=0)) == len(tokens) == len(set(captions))
    reference.start(Strategy())
    passes = Passes(len(captions), size, seed)
    for _ in range(3):
        inputs, rows = reference.next(Strategy(), ForwardFeatures(torch.zeros(1, 8))), passes.next()
        assert torch.equal(inputs.image_rows, rows) and torch.equal(inputs.images, images[rows])
        assert torch.equal(inputs.texts.tokens, tokens[inputs.text_rows])
        own = Model.tokenizer([captions[i] for i in rows])
        assert torch.equal(inputs.texts.tokens[inputs.text_of_image], own)
        distinct = set(captions) if texts == "all" else {captions[i] for i in rows}
        assert len(inputs.texts) == len(distinct)
        assert inputs.student_images is None and inputs.student_texts is None
    ids = 8 * len(captions) + tokens.nbytes
    assert reference.stored().ram - reference._passes.nbytes == found.nbytes + ids


@pytest.mark.parametrize("texts", ["batch", "all"])
def test_other_captions_of_an_image_are_true_of_it(texts):
    """Images by their pictures: 0 has two captions, 1 shares one of them, 2 stands alone."""
    rows = [(0, "a"), (0, "ab"), (1, "ab"), (2, "abc"), (0, "a")]
    pictures = torch.tensor([image for image, _ in rows]).view(-1, 1, 1, 1).expand(-1, 3, 1, 1).byte()
    pairs = ReferencePairs(pictures, tuple(caption for _, caption in rows), lambda x: x / 2)
    reference = ReferenceSet(Model(), pairs, 3, texts)
    true = {(image, caption) for image, caption in rows}
    for _ in range(4):
        inputs = reference.next(Strategy(), None)
        captions = [caption for _, caption in (rows[i] for i in inputs.image_rows)]
        words = ["a", "ab", "abc"] if texts == "all" else [w for w in ("a", "ab", "abc") if w in captions]
        assert torch.equal(inputs.texts.tokens, Model.tokenizer(words))
        expected = [[(rows[i][0], word) in true for word in words] for i in inputs.image_rows]
        assert inputs.true_texts.tolist() == expected
    assert ReferenceSet(Model(), reference_pairs(["a", "ab", "a"]), 3, texts).next(Strategy(), None).true_texts is None


def test_sets_that_are_none_are_refused():
    with pytest.raises(InputError, match="those of the batch or all, not 'some'"):
        ReferenceSet(Model(), reference_pairs(["a"]), texts="some")
    with pytest.raises(InputError, match="items to walk through is a whole number of 1 or more, not 0"):
        ReferenceSet(Model(), reference_pairs([]))
    with pytest.raises(InputError, match="batch size is a whole number of 1 or more, not -3"):
        ReferenceSet(Model(), reference_pairs(["a"]), batch_size=-3)


def test_random_sentences_are_words_in_the_tokenizers_frame(random_model):
    tokenizer = random_model.tokenizer
    sentences = random_sentences(random_model, 200, 5, seed=1)
    assert sentences.shape == (200, tokenizer.context_length) and sentences.dtype == torch.long
    assert (sentences[:, 0] == tokenizer.start).all() and (sentences[:, 6] == tokenizer.end).all()
    assert (sentences[:, 7:] == tokenizer.pad).all()
    words = sentences[:, 1:6]
    assert not torch.isin(words, torch.tensor([tokenizer.start, tokenizer.end, tokenizer.pad])).any()
    assert len(words.unique()) > 0.9 * (tokenizer.vocab_size - 3) and len(sentences.unique(dim=0)) == 200
    assert torch.equal(sentences, random_sentences(random_model, 200, 5, seed=1))
    assert not torch.equal(sentences, random_sentences(random_model, 200, 5, seed=2))
    room = tokenizer.context_length - 2
    assert (random_sentences(random_model, 2, room)[:, -1] == tokenizer.end).all()
    with pytest.raises(InputError, match=f"has room for {room} words, not {room + 1}"):
        random_sentences(random_model, 2, room + 1)
    for n, words in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(InputError, match="whole number of 1 or more"):
            random_sentences(random_model, n, words)
    del random_model.clip.token_embedding
    with pytest.raises(InputError, match="does not tell its vocabulary"):
        random_sentences(random_model, 5, 5)


def test_a_tokenizer_without_a_start_token_frames_the_end_alone(random_model):
    # SigLIP's: its pads are its end token.
    random_model.tokenizer = lambda texts: torch.ones(len(texts), 6, dtype=torch.long)
    sentences = random_sentences(random_model, 50, 4)
    assert (sentences[:, 4:] == 1).all() and not (sentences[:, :4] == 1).any()
