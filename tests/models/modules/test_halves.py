"""An image tower in two parts, and what a routed prediction computes once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mini import IMAGE_BLOCKS, WIDTH, mini
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from small_towers import TEXT, pictures, resnet, sequence_first, transformer, wrap

from avalanche_vlm.benchmarks import LabelSpace
from avalanche_vlm.models import VLM, predict
from avalanche_vlm.models.modules.adapter import inject_adapters
from avalanche_vlm.models.modules.blocks import halves, image_blocks, stopped_before
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import Site, named
from avalanche_vlm.models.modules.tokens import inject_text_prompts
from avalanche_vlm.models.routers import PrototypeRouter, Route
from avalanche_vlm.training import recipes

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_proj": "linear", "image_size": 32}


def vision(**changes: Any) -> VLM:
    return wrap(CLIP(24, {**VISION, **changes}, TEXT))


def timm(pool: str) -> VLM:
    return wrap(CustomTextCLIP(24, {**TIMM, "timm_pool": pool}, TEXT))


def coca(**changes: Any) -> VLM:
    texts = {**TEXT, "embed_cls": True, "output_tokens": True}
    images = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True, **changes}
    return wrap(CoCa(24, {**TEXT, "vocab_size": 64}, texts, images))


CUT = {
    "CLIP": transformer,
    "the sequence first": sequence_first,
    "averaged": partial(vision, pool_type="avg"),
    "averaged, then normalised": partial(vision, pool_type="avg", final_ln_after_pool=True),
    "patches left out": partial(vision, patch_dropout=0.5),
    "CoCa": coca,
    "timm, a token": partial(timm, "token"),
    "timm, averaged": partial(timm, "avg"),
}
WHOLE = {
    "a ResNet": resnet,
    "pools one after the other": partial(coca, attentional_pool="cascade"),
}


def plain(model: VLM) -> Any:
    return partial(model.encode_image_plain, normalize=False)


@pytest.mark.parametrize("build", CUT.values(), ids=CUT)
@torch.no_grad()
def test_two_parts_give_what_the_tower_gives(build):
    torch.manual_seed(0)
    model = build().eval()
    layers, x = image_blocks(model.clip.visual).layers, pictures(5)
    whole = model.encode_image_plain(x, normalize=False)
    for first in range(len(layers)):
        seen = []
        hook = layers[first].register_forward_hook(lambda _m, args, _y, seen=seen: seen.append(args[0]))
        parts = halves(model.clip, plain(model))
        between = parts.below(x)
        assert not seen  # a hook of the block that is stopped before has seen nothing yet
        assert torch.equal(parts.above(between), whole) and torch.equal(seen[0], between)
        rows = torch.tensor([4, 1])
        torch.testing.assert_close(parts.above(parts.rows(between, rows)), whole[rows], atol=1e-6, rtol=1e-5)
        hook.remove()
    parts = halves(model.clip, plain(model))
    assert torch.equal(parts.below(x), whole) and parts.above(whole) is whole  # nobody watches, nothing changes


def count_calls(layer: Any) -> list[int]:
    """How many sequences each call of a layer reads from now on, seen by no hook."""
    found: list[int] = []

    def forward(self: Any, x: torch.Tensor, *others: Any, **how: Any) -> Any:
        found.append(len(x))
        return type(self).__bases__[0].forward(self, x, *others, **how)

    layer.__class__ = type("Counted", (type(layer),), {"forward": forward})
    return found


@pytest.mark.parametrize("build", CUT.values(), ids=CUT)
@torch.no_grad()
def test_a_block_of_which_the_mlp_alone_differs_is_cut_behind_its_attention(build):
    torch.manual_seed(0)
    model = build().eval()
    x = pictures(5)
    block = image_blocks(model.clip.visual).layers[1]
    whole = model.encode_image_plain(x, normalize=False)
    block.mlp.register_forward_hook(lambda *seen: None)
    calls = count_calls(block.attn)
    for other, above in ((None, 0), (block.attn, 1), (block, 1)):  # whose hook is to see what it saw
        hook = None if other is None else other.register_forward_hook(lambda *seen: None)
        parts = halves(model.clip, plain(model))
        between = parts.below(x)
        below, calls[:] = len(calls), []
        assert torch.equal(parts.above(between), whole)
        assert (below, len(calls)) == (1 - above, above)
        calls[:] = []
        rows = torch.tensor([4, 1])
        torch.testing.assert_close(parts.above(parts.rows(between, rows)), whole[rows], atol=1e-6, rtol=1e-5)
        calls[:] = []
        if hook is not None:
            hook.remove()


@pytest.mark.parametrize("build", WHOLE.values(), ids=WHOLE)
def test_other_towers_are_run_whole(build):
    model = build()
    assert halves(model.clip, plain(model)) is None


def test_what_has_its_own_code_or_is_watched_outside_its_blocks_is_run_whole():
    model = transformer()
    visual = model.clip.visual

    def is_cut() -> bool:
        return halves(model.clip, plain(model)) is not None

    assert is_cut()
    for module in (visual, visual.conv1, visual.transformer, visual.ln_post):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            hook = register(lambda *_: None)
            assert not is_cut()
            hook.remove()
        hook = module.register_full_backward_hook(lambda *_: None)
        assert not is_cut()
        hook.remove()
    visual.set_grad_checkpointing(True)
    assert not is_cut()
    visual.set_grad_checkpointing(False)

    class Own(type(visual)):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert is_cut()
    visual.__class__ = Own
    assert not is_cut()


GLOBAL = ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook")


@pytest.mark.parametrize("kind", GLOBAL)
def test_hooks_of_all_modules_have_it_run_whole(kind):
    model = transformer()
    hook = getattr(torch.nn.modules.module, f"register_module_{kind}")(lambda *_: None)
    try:
        assert halves(model.clip, plain(model)) is None
    finally:
        hook.remove()
    assert halves(model.clip, plain(model)) is not None


PLACES = ("", "conv1", "transformer", "transformer.resblocks.0", "transformer.resblocks.1.mlp.c_fc")


@pytest.mark.parametrize("where", PLACES)
def test_a_part_that_is_compiled_has_it_run_whole(where):
    model = transformer()
    model.clip.visual.get_submodule(where).compile(backend="eager")
    assert halves(model.clip, plain(model)) is None


def test_a_block_in_a_compiled_wrapper_has_it_run_whole():
    model = transformer()
    blocks = model.clip.visual.transformer.resblocks
    blocks[0] = torch.compile(blocks[0], backend="eager")
    assert halves(model.clip, plain(model)) is None


@pytest.mark.parametrize("where", PLACES)
def test_an_instance_with_a_function_of_its_own_has_it_run_whole(where):
    model = transformer()
    module = model.clip.visual.get_submodule(where)
    module.forward = module.forward
    assert halves(model.clip, plain(model)) is None
    del module.forward
    assert halves(model.clip, plain(model)) is not None


@pytest.mark.parametrize("name", ["encode_image", "_global_pool"])
def test_other_methods_of_an_instance_count_as_well(name):
    model = transformer()
    host = model.clip if name == "encode_image" else model.clip.visual
    vars(host)[name] = getattr(host, name)
    assert halves(model.clip, plain(model)) is None


def test_a_layer_that_nobody_calls_is_not_reached():
    model = transformer()
    assert stopped_before(torch.nn.Linear(2, 2), plain(model), pictures(1)) is None
    assert not model.clip.visual._forward_pre_hooks


# A routed prediction --------------------------------------------------------------------------------------------------


class Counted:
    """How many samples each image block has worked on, pass by pass, seen by no hook."""

    def __init__(self, model: VLM) -> None:
        self.layers = image_blocks(model.clip.visual).layers
        self.sizes: list[list[int]] = [[] for _ in self.layers]
        for number, layer in enumerate(self.layers):
            layer.__class__ = self._counting(number, type(layer))

    def _counting(self, number: int, kind: Any) -> type:
        """The layer's class, but for the count: a function of the instance's own would have the tower run whole."""

        def forward(layer: Any, x: torch.Tensor, **how: Any) -> torch.Tensor:
            self.sizes[number].append(len(x))
            return kind.forward(layer, x, **how)

        return type(kind.__name__, (kind,), {"forward": forward})


def decide(model: VLM, tasks: list[int]) -> None:
    """Have the router send samples to these tasks, -1 for none."""
    task = torch.tensor(tasks)
    model.routed.router.score = lambda features: Route(task.clamp_min(0), torch.ones(len(task)), task < 0)


def shared_by(site: Site) -> list[torch.nn.Parameter]:
    return [] if site.shared is None else list(site.shared.parameters())


def with_modules(model: VLM, pool: ModulePool, n: int = 2) -> VLM:
    """The model with random modules, under a router that is told what to say."""
    for _ in range(n):
        name = pool.add_next()
        with torch.no_grad():
            for parameter in [*pool.parameters(name), *(p for site in pool.sites.values() for p in shared_by(site))]:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if model.routed is not None:
            features = F.normalize(torch.randn(20, model.width), dim=1)
            model.routed.learn(name, features, torch.zeros(20, dtype=torch.long))
    return model.set_label_space(LabelSpace.from_names(["circle", "star", "fox", "heart"])).eval()


def in_blocks(first: int) -> VLM:
    """A model with LoRA from this block on."""
    torch.manual_seed(0)
    model = mini().freeze("image", "text")
    number = "|".join(map(str, range(first, IMAGE_BLOCKS)))
    layers = inject_lora(model.tower("image"), rank=2, pattern=rf"resblocks\.({number})\.(attn|mlp\.c_fc)$")
    pool = ModulePool(named("image", layers))
    model.install("routed", RoutedPool(pool, PrototypeRouter()), "a test")
    return with_modules(model, pool)


def apart(model: VLM, images: torch.Tensor) -> torch.Tensor:
    """Logits by passes of the whole tower, each from the images on."""
    logits = torch.full((len(images), len(model.label_space)), float("nan"))
    for rows, features in model.routed.groups(plain(model), images):
        logits[rows] = model.classify(F.normalize(features, dim=-1))
    return logits


@pytest.mark.parametrize("first", [0, 2])
@torch.no_grad()
def test_what_is_below_the_first_module_is_computed_once_and_strangers_run_once(first):
    model, x = in_blocks(first), pictures(6)
    counted = Counted(model)
    decide(model, [0, 1, -1, 0, 1, -1])
    model(x)
    assert counted.sizes == [[6]] * first + [[6, 2, 2]] * (IMAGE_BLOCKS - first)
    for answer in (
        model.encode_image,
        partial(predict.predict, model),
        partial(predict.predict, model, labels=["fox"]),
    ):
        counted.sizes = [[] for _ in counted.layers]
        answer(x)
        assert counted.sizes == [[6]] * first + [[6, 2, 2]] * (IMAGE_BLOCKS - first)
    decide(model, [-1] * 6)
    counted.sizes = [[] for _ in counted.layers]
    model(x)
    assert counted.sizes == [[6]] * IMAGE_BLOCKS
    model.routed.use_task_labels = True  # a label says which module it is: no pass comes first
    model.routed.of_label = {0: "task_0"}
    counted.sizes = [[] for _ in counted.layers]
    model(x, 0)
    assert counted.sizes == [[6]] * IMAGE_BLOCKS


ROUTED = ("lora", "adapter-per-task", "moe-adapters", "s-prompts", "diki")


@pytest.mark.parametrize("recipe", ROUTED)
@torch.no_grad()
def test_every_recipe_predicts_what_separate_passes_predict(recipe):
    torch.manual_seed(0)
    model, x = mini(), pictures(6)
    options = {"s-prompts": {"image_length": 2, "text_length": 2}}.get(recipe, {})
    plugin = recipes.build(recipe, model=model, **options)[0]
    with_modules(model, plugin.pool)
    decide(model, [1] * 6)
    together = model(x)
    assert torch.equal(together, apart(model, x))
    with plugin.pool.using(None):
        assert (together - model.classify(model.encode_image_plain(x))).abs().max() > 1e-3
    decide(model, [0, 1, -1, 1, 0, -1])
    torch.testing.assert_close(model(x), apart(model, x), atol=1e-5, rtol=1e-6)  # logits, up to 100 times features
    rows, features = zip(*model.routed.groups(plain(model), x), strict=True)
    expected = F.normalize(torch.cat(features)[torch.cat(rows).argsort()], dim=-1)
    torch.testing.assert_close(model.encode_image(x), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_modules_of_texts_alone_leave_images_to_one_pass():
    torch.manual_seed(0)
    model, x = mini().freeze("image", "text"), pictures(4)
    pool = ModulePool(named("text", inject_text_prompts(model, length=2)))
    model.install("routed", RoutedPool(pool, PrototypeRouter()), "a test")
    with_modules(model, pool)
    decide(model, [0, 1, 1, -1])
    counted = Counted(model)
    got = model(x)
    assert counted.sizes == [[4]] * IMAGE_BLOCKS
    torch.testing.assert_close(got, apart(model, x), atol=1e-5, rtol=1e-6)


def test_the_gradients_are_those_of_separate_passes():
    model, x = in_blocks(2), pictures(4)
    decide(model, [1] * 4)
    given = [x.clone().requires_grad_() for _ in range(2)]
    for images, answer in zip(given, (model, partial(apart, model)), strict=True):
        answer(images)[:, 1].sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, atol=1e-6, rtol=1e-4)
    assert given[0].grad.abs().max() > 0


@pytest.mark.parametrize(
    "where", ["", "conv1", "transformer", "transformer.resblocks.0", "transformer.resblocks.1.mlp"]
)
@torch.no_grad()
def test_hooks_of_others_see_what_they_saw(where):
    model, x = in_blocks(2), pictures(6)
    decide(model, [0, 1, -1, 0, 1, -1])
    unwatched = model(x)
    seen: list[torch.Tensor] = []
    module = model.clip.visual.get_submodule(where)
    hook = module.register_forward_hook(lambda _m, _i, y: seen.append(y))
    before = apart(model, x)
    expected, seen[:] = list(seen), []
    got = model(x)
    assert len(seen) == len(expected) == 3
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    hook.remove()
    torch.testing.assert_close(got, before, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(got, unwatched, atol=1e-5, rtol=1e-6)


@torch.no_grad()
def test_a_module_outside_the_blocks_is_passed_in_both_passes():
    torch.manual_seed(0)
    model, x = mini().freeze("image", "text"), pictures(4)
    model.clip.visual.ln_pre = torch.nn.Linear(WIDTH, WIDTH)
    pool = ModulePool(named("image", inject_adapters(model.tower("image"), pattern="ln_pre$")))
    model.install("routed", RoutedPool(pool, PrototypeRouter()), "a test")
    with_modules(model, pool)
    decide(model, [0, 1, 1, -1])
    assert torch.equal(model(x), apart(model, x))
