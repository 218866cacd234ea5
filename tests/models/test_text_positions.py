"""Texts cut to the positions that count: the same features and gradients in every kind of tower, or no cut."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mini import mini
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from test_towers import MODELS, TEXT, VISION
from torch import nn
from transformers import BertConfig, M2M100Config, MT5Config, RobertaConfig

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.padding import Padding, padding_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.coupled import inject_coupled_prompts
from avalanche_vlm.models.modules.experts import inject_experts
from avalanche_vlm.models.modules.key_value import inject_key_values
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tokens import inject_text_prompts
from avalanche_vlm.models.text_positions import (
    LEAST,
    TextPositions,
    context_of,
    encode_short,
    text_positions,
    why_whole,
)

CONTEXT, WORDS = 12, 20
END = WORDS - 1
LONG = {**TEXT, "context_length": CONTEXT, "vocab_size": WORDS}
HUGGING_FACE = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def custom(**text) -> nn.Module:
    """A model whose text tower is a module of its own."""
    return CustomTextCLIP(24, dict(VISION), {**LONG, **text})


def hugging_face(config, pooler: str) -> nn.Module:
    model = custom()
    config = config(**HUGGING_FACE, intermediate_size=32, max_position_embeddings=CONTEXT + 4, pad_token_id=0)
    model.text = HFTextEncoder("", 24, config=config, pooler_type=pooler, proj_type="linear")
    return model


def encoder_half(config) -> nn.Module:
    """The encoder of an encoder and decoder, as open_clip takes it out of a named model."""
    model = hugging_face(BertConfig, "mean_pooler")
    text = HFTextEncoder("", 24, config=config, pooler_type="mean_pooler", proj_type="linear")
    text.transformer = text.transformer.encoder
    model.text = text
    return model


M2M = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "pad_token_id": 0}
MT5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}


def own_text(**settings) -> nn.Module:
    """With a text tower of settings that no configuration of a model has."""
    model = custom()
    model.text = TextTransformer(**LONG, output_dim=24, pad_id=0, **settings)
    return model


def coca(correct: bool) -> nn.Module:
    model = MODELS["coca"]()
    model.text = own_text(embed_cls=True, output_tokens=True, correct_cls_mask=correct).text
    return model


TOWERS = {
    "clip": lambda: CLIP(24, dict(VISION), {**LONG}),
    "clip, end by id": lambda: CLIP(24, dict(VISION), {**LONG, "pool_type": "eos", "eos_id": END}),
    "custom text": partial(custom, proj_bias=True),
    "custom text, end by id": partial(custom, pool_type="eos", eos_id=END),
    "both ways, padding masked": partial(own_text, no_causal_mask=True, use_pad_mask=True, pool_type="argmax"),
    "coca": partial(coca, False),
    "coca, mask in its place": partial(coca, True),
    "roberta, mean": partial(hugging_face, RobertaConfig, "mean_pooler"),
    "bert, class token": partial(hugging_face, BertConfig, "cls_pooler"),
    "mt5": lambda: encoder_half(MT5Config(vocab_size=WORDS, **MT5)),
    "m2m 100": lambda: encoder_half(M2M100Config(vocab_size=WORDS, **M2M)),
}
WHOLE = {
    "siglip": partial(custom, no_causal_mask=True, pool_type="last"),
    "last token": partial(custom, pool_type="last"),
    "both ways, end token": partial(custom, no_causal_mask=True),
}


WHY = {
    "siglip": "pools by 'last', not at the end of a text",
    "last token": "pools by 'last', not at the end of a text",
    "both ways, end token": "attends to the padding",
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = {**TOWERS, **WHOLE}[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # so that every position has a say
    return model.double().eval()


def texts(*lengths: int) -> torch.Tensor:
    """Texts of so many tokens, the end token included, on the padding of the whole context."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.zeros(len(lengths), CONTEXT, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(1, END, (length - 1,), generator=generator)
        row[length - 1] = END
    return tokens


def answer(model: nn.Module, encode, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features, and the gradient of a sum over them by every weight that has one."""
    model.zero_grad()
    features = encode(tokens)
    (features * torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"features": features.detach(), **gradients}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("lengths", [(4, 7, 3), (2,), (CONTEXT - 1, 3), (CONTEXT, 3)])
@pytest.mark.parametrize("name", TOWERS)
def test_features_and_gradients_are_those_of_the_padded_text(name, lengths):
    model, tokens = build(name), texts(*lengths)
    positions = text_positions(model)
    assert positions is not None
    short = positions.cut(tokens)
    assert max(lengths) <= short.shape[1] <= min(CONTEXT, max(lengths) + 1)
    assert positions.cut(tokens, padding_of(tokens)).shape == short.shape
    assert why_whole(model) == ""
    wanted = answer(model, partial(model.encode_text, normalize=False), tokens)
    assert_same(answer(model, partial(encode_short, model), short), wanted)


@pytest.mark.parametrize("name", WHOLE)
def test_towers_that_need_every_position_say_so(name):
    model, tokens = build(name), texts(4, 7)
    assert text_positions(model) is None
    assert why_whole(model) == WHY[name]
    # They do: another padding is another text.
    other = tokens.clone()
    other[:, -1] = other[:, -2] = 3
    assert (model.encode_text(tokens) - model.encode_text(other)).abs().max() > 1e-3
    wrapped = from_open_clip(model.float(), None, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    seen = widths(model.text)
    assert torch.equal(wrapped.encode_text(tokens, normalize=False), model.encode_text(tokens, normalize=False))
    assert seen == [CONTEXT, CONTEXT]


def test_code_of_other_kinds_is_run_as_it_is():
    class Mine(CLIP):
        def encode_text(self, text, normalize=False):
            return super().encode_text(text, normalize) + text[:, -1:]

    class Tower(TextTransformer):
        def forward(self, text):
            return super().forward(text) + text[:, -1:]

    mine, other = Mine(24, dict(VISION), {**LONG}).double(), custom().double()
    other.text = Tower(**LONG, output_dim=24).double()
    for clip, why in ((mine, "a Mine encodes texts in a way of its own"), (other, "reads texts in a way of its own")):
        assert why in why_whole(clip)
        model = from_open_clip(clip, None, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
        assert torch.equal(model.encode_text(texts(4), False), clip.encode_text(texts(4)).float())
    largest = hugging_face(BertConfig, "max_pooler")
    assert why_whole(largest) == "may pool padding, by its MaxPooler"
    assert why_whole(own_text(no_causal_mask=True, use_pad_mask=True, pool_type="eos", eos_id=0)) != ""


@pytest.mark.parametrize("name", ["clip", "clip, end by id", "both ways, padding masked", "coca", "roberta, mean"])
@pytest.mark.parametrize("pad", [3, END])
def test_padding_of_another_token_than_the_tower_s_is_read_as_words(name, pad):
    model, tokens = build(name), texts(4, 7)
    for row, length in zip(tokens, (4, 7), strict=True):
        row[length:] = pad
    positions = text_positions(model)
    wanted = model.encode_text(tokens, normalize=False)
    for short in (positions.cut(tokens), positions.cut(tokens, padding_of(tokens))):
        assert short.shape[1] == CONTEXT if positions.until != "end" else 7 <= short.shape[1] <= 8
        torch.testing.assert_close(encode_short(model, short), wanted, rtol=1e-9, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=4), st.sampled_from([None, 2])
)
def test_told_from_the_padding_alone_no_text_loses_a_position_that_it_needs(rows, end):
    tokens = torch.tensor(rows)
    for positions in (TextPositions("end", end=end), TextPositions("padding"), TextPositions("padding and one more")):
        assert positions.length(padding_of(tokens), 5) >= int(positions.needed(tokens).max())


def test_padding_that_is_told_is_not_looked_for(monkeypatch):
    model = mini()
    seen = widths(model.clip)
    monkeypatch.setattr(TextPositions, "needed", lambda *_: pytest.fail("an accelerator would have been waited for"))
    model.encode_text(model.tokenize(["a star"]), padding=Padding(LEAST + 2, 0))
    assert seen == [LEAST + 2]


def widths(tower) -> list[int]:
    """How many positions the tower computes in each pass from now on."""
    seen: list[int] = []
    tower.token_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, END), max_size=CONTEXT - 1), min_size=1, max_size=5), st.sampled_from([None, END])
)
def test_no_text_loses_what_is_pooled(rows, end):
    tokens = torch.zeros(len(rows), CONTEXT, dtype=torch.long)
    for row, words in zip(tokens, rows, strict=True):
        row[: len(words)] = torch.tensor(words, dtype=torch.long)
    for i, needed in enumerate(TextPositions("end", end=end).needed(tokens).tolist()):
        largest = max(rows[i], default=0) if end is None else end
        assert needed == 1 + (rows[i].index(largest) if largest in rows[i] else 0)
    for i, needed in enumerate(TextPositions("padding").needed(tokens).tolist()):
        assert needed == max(1, len(rows[i])) and not tokens[i, needed:].any()
    more = TextPositions("padding and one more").needed(tokens).tolist()
    assert more == [max(1, len(words) + 1) for words in rows]
    assert TextPositions("end").cut(tokens[:0]).shape == (0, CONTEXT)


SITES = {
    "lora": lambda model: named("text", inject_lora(model.tower("text"))),
    "key-values": lambda model: named("text", inject_key_values(model.tower("text"))),
    "experts": lambda model: named("text", inject_experts(model.tower("text"), experts=3, bottleneck=4, dropout=0)),
    "context": lambda model: named("text", inject_text_prompts(model, length=3)),
    "deep context": lambda model: named("text", inject_text_prompts(model, length=3, depth=2)),
    "coupled": lambda model: named("text", inject_coupled_prompts(model, depth=2)),
}


@pytest.mark.parametrize("name", SITES)
def test_modules_in_the_tower_work_on_what_is_left(name):
    model = mini(freeze=("image", "text", "scale")).double()
    tokens = model.tokenize(["a red star", "a blue circle and a green heart", "a star"])
    pool = ModulePool(SITES[name](model))
    pool.add("one")
    with torch.no_grad():
        for parameter in pool.parameters("one"):
            parameter.normal_(std=0.2)
    with pool.using("one"), model.whole_texts():
        wanted = answer(model, model.encode_text, tokens)
    seen = widths(model.clip)
    with pool.using("one"):
        found = answer(model, model.encode_text, tokens)
    words = model.text_positions.cut(tokens).shape[1]
    assert seen == [words + 3 * (name in ("context", "deep context")) + 2 * (name == "coupled")]
    assert words < tokens.shape[1] and len(found) > 1
    assert_same(found, wanted)


def test_a_context_is_refused_where_texts_leave_no_room():
    model = mini()
    context = context_of(model.clip)
    inject_text_prompts(model, length=4)["token_embedding"].add("one")
    model.text_path.__self__.active = "one"
    fits = "star " * (context - 6)
    assert model.encode_text(model.tokenize([fits])).shape == (1, 32)
    with pytest.raises(InputError, match=f"leaves {context - 4} of the text tower's {context} positions"):
        model.encode_text(model.tokenize([fits + "star"]))


def test_prompts_of_classes_cost_their_words():
    model = mini().set_label_space(LabelSpace.from_names(["star", "heart", "red star"]))
    seen = widths(model.clip)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    longest = int((model.text_head.prompts.tokens != 0).sum(1).max())
    assert seen == [longest] and longest < context_of(model.clip)
    with model.whole_texts():
        model(torch.randn(2, 3, 32, 32))
    assert seen == [longest, context_of(model.clip)]
    assert copy.deepcopy(model).text_positions == TextPositions("end")


@pytest.mark.parametrize("beside", [LEAST, LEAST + 1, LEAST + 3])
def test_features_do_not_depend_on_longer_texts_beside_them(beside):
    """As many texts as a matrix product takes row by row; fewer go through another one."""
    model = mini(freeze=("image", "text", "scale")).eval()
    texts = model.tokenize(["a red star", "a blue circle and a green heart"] * 8)
    longer = model.tokenize(["star " * (beside - 2)] * 16)
    assert int(model.text_positions.needed(longer).max()) == beside
    alone, joined = model.encode_text(texts), model.encode_text(torch.cat([texts, longer]))
    assert torch.equal(alone, joined[: len(texts)])


def test_a_step_computes_no_more_of_a_frozen_tower_and_what_is_kept_is_no_part_of_one():
    model = mini(freeze=("image", "text", "scale")).train()
    tokens = model.tokenize(["a red star"])
    needed = int(model.text_positions.needed(tokens).max())
    seen = widths(model.clip)
    model.encode_text(tokens)
    with torch.no_grad():
        model.encode_text(tokens)
        model.encode_text(tokens, kept=False)
    model.eval().encode_text(tokens)
    model.encode_text(tokens, kept=False)
    model.train().encode_text(tokens, kept=True)
    assert seen == [needed, LEAST, needed, LEAST, needed, LEAST] and needed < LEAST
