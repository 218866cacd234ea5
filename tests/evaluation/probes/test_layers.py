"""What blocks give for texts, of which a tower otherwise computes no more positions than it needs."""

from __future__ import annotations

import torch

from avalanche_vlm.evaluation.probes.layers import capturing, real_tokens


@torch.no_grad()
def test_a_text_s_means_do_not_depend_on_the_texts_beside_it(random_model):
    model = random_model.eval()
    tokens = model.tokenize(["a red star", "a small blue circle on the left", "zero"])
    with capturing(model, 3, tokens) as found:
        model.encode_text(tokens)
    assert found.keys() == {f"text.{i}" for i in range(3)}
    for row in range(3):
        with capturing(model, 1, tokens[row : row + 1]) as alone:
            model.encode_text(tokens[row : row + 1])
        for block, features in found.items():
            torch.testing.assert_close(features[row], alone[block][0], atol=1e-5, rtol=1e-5)
    # They are those of the positions that count, of all that there are.
    given = []
    model.clip.transformer.resblocks[0].register_forward_hook(lambda _m, _i, y: given.append(y))
    model.clip.encode_text(tokens)
    by_hand = torch.stack([y[: int(n)].mean(0) for y, n in zip(given[0], real_tokens(tokens).sum(1), strict=True)])
    torch.testing.assert_close(found["text.0"], by_hand, atol=1e-5, rtol=1e-5)
    assert model.text_positions is not None  # afterwards texts are as short as before
