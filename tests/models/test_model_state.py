"""A model's state: into a fresh model of the same making, which predicts and goes on as the old one would."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from quick import slow_but_for_some

from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.models import MASKED, VLM
from avalanche_vlm.models.heads.analytic import (
    AnalyticHead,
    KernelRidge,
    NearestClassMean,
    RandomProjectionRidge,
    RecursiveRidge,
)
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.models.heads.trained import LabelSpecificHead, ProjectionFusionHead
from avalanche_vlm.models.modules.adapter import inject_adapters
from avalanche_vlm.models.modules.coupled import inject_coupled_prompts
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.experts import ExpertSite, inject_experts
from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter
from avalanche_vlm.models.modules.key_value import CalibratedPool, inject_key_values
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.query_prompts import CodaPromptPool, DualPromptPool, L2PPool, QueryPromptPath
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tail import TailLowRank
from avalanche_vlm.models.modules.tokens import inject_image_prompts, inject_text_prompts
from avalanche_vlm.models.routers import CalibratedRouter, ReferenceGate, create_router, list_routers

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SPACE = LabelSpace(
    ("star", "heart", "red", "blue", "green", "ring"),
    ((0, 1), (2, 3), (4, 5)),
    "task",
    (PromptTemplates("t", ("a {}",)),),
)
WIDTH = 24


def pictures(seed: int, n: int = 12) -> torch.Tensor:
    """Images that share what the seed stands for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, 32, 32, generator=generator) + 0.7 * torch.randn(n, 3, 32, 32, generator=generator)


def features(seed: int, n: int = 60, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features of one task's two classes, and their ids."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(1, width, generator=generator) + torch.randn(2, width, generator=generator)
    y = torch.arange(n) % 2
    return F.normalize(centres[y] + 0.3 * torch.randn(n, width, generator=generator), dim=1), y + 2 * seed


def handed_over(state: dict[str, Any]) -> dict[str, Any]:
    """The state as it comes out of a file, after a look at what is in it."""
    json.dumps({name: part for name, part in state.items() if not isinstance(part, torch.Tensor)})
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """A step of what trains."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same, names, tensors and values."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name]) for name in a)
    return a == b


# Whole models ---------------------------------------------------------------------------------------------------------


def pooled(inject: Callable[[VLM], dict], routed: Callable = RoutedPool) -> Callable[[VLM], Callable[[int], None]]:
    """One module per task behind a router, as the plugin for it does it."""

    def build(model: VLM) -> Callable[[int], None]:
        model.freeze("image", "text", "scale")
        pool = ModulePool(inject(model))
        model.install("routed", routed(pool, create_router("gaussian")), "a module per task")

        def learn(task: int) -> None:
            pool.add(f"task_{task}")
            model.routed.of_label |= {task: f"task_{task}"}
            for site in pool.sites.values():
                if isinstance(site, ExpertSite):
                    site.start()
            randomise(model, task)
            model.train()(pictures(task), task)  # experts count who asks for them
            for site in pool.sites.values():
                if isinstance(site, ExpertSite):
                    site.freeze_most_used(1)
            with torch.no_grad(), pool.using(None):
                plain = model.encode_image_plain(pictures(task))
            model.eval()
            model.routed.learn(f"task_{task}", plain, torch.arange(len(plain)) % 2)

        return learn

    return build


def calibrated(pool: ModulePool, router: CalibratedRouter) -> RoutedPool:
    """The way of images whose prompts count by likelihood."""
    return CalibratedPool(pool, router, [site for where, site in pool.sites.items() if where.startswith("image.")])


def towers(inject: Callable, model: VLM) -> dict:
    """Places in both towers."""
    return {
        name: site for tower in ("image", "text") for name, site in named(tower, inject(model.tower(tower))).items()
    }


def tokens(model: VLM) -> dict:
    """Prompts in both towers, deep ones in the image tower."""
    image = inject_image_prompts(model.tower("image"), length=2, depth=2)
    return named("image", image) | named("text", inject_text_prompts(model, length=2))


def prompted(kind: type, **options: int) -> Callable[[VLM], Callable[[int], None]]:
    """Prompts that a sample's query chooses."""

    def build(model: VLM) -> Callable[[int], None]:
        model.freeze("image", "text", "scale")
        tower = model.tower("image")
        path = QueryPromptPath(kind(tower, model.width, **options), tower)
        model.install("image_path", path, "query prompts")

        def learn(task: int) -> None:
            path.pool.begin_task()
            randomise(model, task)
            path.pool.observe(F.normalize(model.eval().encode_image_plain(pictures(task)), dim=1))

        return learn

    return build


def adapted(model: VLM) -> Callable[[int], None]:
    """An adapter on image features, beside a text tower that trains."""
    model.freeze("image")
    model.install("image_path", AdapterPath(FeatureAdapter(model.width)), "feature replay")
    return lambda task: randomise(model, task)


def merged(model: VLM) -> Callable[[int], None]:
    """Low-rank changes that end in the weights."""
    model.freeze("image", "text", "scale")
    layers = towers(inject_lora, model)

    def learn(task: int) -> None:
        for layer in layers.values():
            layer.add("task")
            layer.active = "task"
        randomise(model, task)
        for layer in layers.values():
            layer.merge("task", 0.5)

    return learn


def shared(model: VLM) -> Callable[[int], None]:
    """One module for all tasks, with a second name that the next task goes on with, and no router."""
    model.freeze("image", "text", "scale")
    pool = ModulePool(named("image", inject_lora(model.tower("image"), rank=2)))
    pool.add("shared")

    def learn(task: int) -> None:
        if "again" not in model.clip.visual.transformer.resblocks[0].attn.bank:
            pool.share("again", "shared")
        randomise(model, task)

    return learn


def parts_without_tensors(model: VLM) -> dict:
    """LoRA on the output of attention alone: the places of q, k and v have modules of nothing."""
    return towers(partial(inject_lora, rank=2, parts=["out"]), model)


BUILD: dict[str, Callable[[VLM], Callable[[int], None]]] = {
    "lora": pooled(partial(towers, partial(inject_lora, rank=2))),
    "lora of nothing": pooled(parts_without_tensors),
    "dora": pooled(partial(towers, partial(inject_lora, make=partial(DoRA, rank=2)))),
    "tail": pooled(partial(towers, partial(inject_lora, make=partial(TailLowRank, rank=4, tail_energy=0.05)))),
    "adapters": pooled(partial(towers, partial(inject_adapters, bottleneck=4))),
    "experts": pooled(partial(towers, partial(inject_experts, experts=4, bottleneck=4))),
    "tokens": pooled(tokens),
    "key/value": pooled(partial(towers, partial(inject_key_values, length=2, depth=2)), calibrated),
    "coupled": pooled(lambda model: named("text", inject_coupled_prompts(model, length=2, depth=2, words=""))),
    "l2p": prompted(L2PPool, size=6, length=2, chosen=2),
    "dualprompt": prompted(DualPromptPool, shared_blocks=1, task_blocks=1, task_length=3),
    "coda": prompted(CodaPromptPool, components=3, length=4, blocks=2),
    "feature adapter": adapted,
    "merged": merged,
    "shared": shared,
    "plain": lambda model: partial(randomise, model),
}


def made(kind: str, visible: str = "task") -> tuple[VLM, Callable[[int], None]]:
    """A model with a method built on it, and how that method learns a task."""
    torch.manual_seed(3)
    model = tiny_vlm("random")
    learn = BUILD[kind](model)
    model.set_label_space(SPACE.with_visible(visible))

    def with_classes(task: int) -> None:
        torch.manual_seed(100 + task)
        model.train().adaptation(Experience(task))
        learn(task)

    return model, with_classes


class Experience:
    """What a model reads of an experience."""

    label_space = SPACE

    def __init__(self, task: int) -> None:
        self.classes_in_this_experience, self.task_labels = set(SPACE.tasks[task]), [task]
        self.current_experience = task


@torch.no_grad()
def answers(model: VLM) -> list[torch.Tensor]:
    """Everything that is predicted."""
    images, tasks = torch.cat([pictures(task, 4) for task in range(3)]), torch.arange(3).repeat_interleave(4)
    model.eval()
    return [model(images, tasks), model.encode_image(images), model.encode_text(model.tokenize(["a star", "red"]))]


def same(a: VLM, b: VLM) -> bool:
    """Whether two models answer the same, to the last bit."""
    return all(torch.equal(one, other) for one, other in zip(answers(a), answers(b), strict=True))


@pytest.mark.parametrize("kind", slow_but_for_some(BUILD, ["lora", "l2p"]))
def test_a_fresh_model_predicts_and_goes_on_as_the_one_whose_state_it_took(kind):
    trained, learn = made(kind)
    before = answers(trained)
    for task in range(2):
        learn(task)
    assert not torch.equal(answers(trained)[1], before[1])
    fresh, go_on = made(kind)
    torch.manual_seed(9)
    draws = torch.get_rng_state()
    assert list(fresh.load_state_dict(handed_over(trained.state_dict()))) == [[], []]
    assert torch.equal(torch.get_rng_state(), draws)
    fresh.load_training_state(trained.training_state())
    assert same(trained, fresh)
    for following in (learn, go_on):
        following(2)
    assert equal(trained.state_dict(), fresh.state_dict())
    assert trained.training_state() == fresh.training_state()
    assert same(trained, fresh)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(trained)))
    assert same(trained, twin) and equal(trained.state_dict(), twin.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "experts", "coda", "l2p", "dualprompt", "shared"])
def test_a_model_that_has_learned_more_goes_back(kind):
    model, learn = made(kind)
    learn(0)
    state, before = copy.deepcopy(model.state_dict()), answers(model)
    for task in (1, 2):
        learn(task)
    model.load_state_dict(state)
    assert equal(model.state_dict(), state)
    assert all(torch.equal(one, other) for one, other in zip(answers(model), before, strict=True))


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_which_classes_compete_is_part_of_the_state(visible):
    trained, learn = made("plain", visible)
    for task in range(2):
        learn(task)
    trained.eval().adaptation(Experience(2))
    fresh = tiny_vlm("random")
    fresh.load_state_dict(handed_over(trained.state_dict()))
    assert fresh.label_space == trained.label_space
    assert fresh.known_train_tasks_labels == {0, 1} and fresh.competing.seen.tolist() == [True] * 4 + [False] * 2
    assert same(trained, fresh)
    competing = (answers(fresh)[0] > MASKED).sum(1).tolist()
    assert competing == {"task": [2] * 12, "seen": [4] * 8 + [6] * 4, "union": [6] * 12}[visible]
    with torch.no_grad():
        of_all = fresh(pictures(0), None)
    assert set(of_all) == {0, 1}


def test_a_state_of_before_the_first_experience_leaves_a_label_space_that_is_set():
    fresh = tiny_vlm("random").set_label_space(SPACE)
    fresh.competing.met[0, :2] = True
    fresh.load_state_dict(tiny_vlm("random").state_dict())
    assert fresh.label_space == SPACE and fresh.competing.seen.sum() == 2


@pytest.mark.parametrize("kind", ["lora", "plain", "dualprompt"])
def test_a_state_of_tensors_alone_still_loads(kind):
    trained, learn = made(kind)
    for task in range(2):
        learn(task)
    tensors = {name: part for name, part in trained.state_dict().items() if isinstance(part, torch.Tensor)}
    fresh, _ = made(kind)
    fresh.load_state_dict(tensors)
    assert same(trained, fresh)


def test_weights_of_the_plain_towers_say_nothing_about_modules():
    trained, learn = made("lora")
    learn(0)
    plain = {name: part for name, part in trained.clip.state_dict().items() if ".bank." not in name}
    missing = trained.clip.load_state_dict(plain, strict=False).missing_keys
    assert missing and all(".bank." in name for name in missing)
    assert trained.routed.pool.names == ["task_0"]


def test_a_module_under_two_names_stays_one():
    trained, learn = made("shared")
    learn(0)
    fresh, _ = made("shared")
    fresh.load_state_dict(handed_over(trained.state_dict()))
    banks = [site.bank for site in fresh.modules() if hasattr(site, "bank")]
    assert banks and all(bank["again"] is bank["shared"] for bank in banks)
    assert len(list(fresh.parameters())) == len(list(trained.parameters()))


def test_the_active_module_is_that_of_the_mode():
    trained, learn = made("lora")
    learn(0)
    for training in (True, False):
        fresh, _ = made("lora")
        fresh.train(training).load_state_dict(trained.state_dict())
        assert fresh.routed.pool.active == ("task_0" if training else None)
        assert fresh.train().routed.pool.active == "task_0" and fresh.eval().routed.pool.active is None


def test_who_chooses_by_task_labels_still_does():
    trained, learn = made("lora")
    for task in range(2):
        learn(task)
    trained.routed.use_task_labels = True
    fresh, _ = made("lora")
    fresh.load_state_dict(handed_over(trained.state_dict()))
    assert fresh.routed.use_task_labels and fresh.routed.of_label == {0: "task_0", 1: "task_1"}
    assert same(trained, fresh)


def test_a_pool_without_a_router_takes_its_names_before_or_after_the_tensors():
    def pool_of(model: VLM) -> ModulePool:
        return ModulePool(named("image", inject_lora(model.tower("image"), rank=2, parts=["out"])))

    torch.manual_seed(0)
    model = tiny_vlm("random")
    pool = pool_of(model)
    for name in ("a", "b"):
        pool.add(name)
        randomise(model, len(pool))
    pool.share("c", "a")
    pool.activate("a")
    for first in ("pool", "model"):
        torch.manual_seed(0)
        other = tiny_vlm("random")
        twin = pool_of(other)
        if first == "pool":
            twin.load_state_dict(pool.state_dict())
        other.load_state_dict(model.state_dict())
        if first == "model":
            twin.load_state_dict(pool.state_dict())
        assert (twin.state_dict() == pool.state_dict() and twin.current == "c") or twin.current == pool.current
        assert twin.active == "a" and equal(twin.state("b"), pool.state("b"))
        assert all(site.bank["c"] is site.bank["a"] for site in twin.sites.values())


# Routers and heads ----------------------------------------------------------------------------------------------------

SMALL = {"autoencoder": {"steps": 30}}


def router(name: str, gated: bool) -> CalibratedRouter | ReferenceGate:
    """A router that knows no task, alone or behind a gate."""
    made = create_router(name, **SMALL.get(name, {}))
    return ReferenceGate(made, features(7)[0], hidden=32) if gated else made


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", list_routers())
def test_a_router_goes_on_where_it_was(name, gated):
    old, new = router(name, gated), router(name, gated)
    for task in range(2):
        old.fit(*features(task))
    calibrated = old.router if gated else old
    calibrated.calibrate([features(task)[0] for task in range(2)], 0.2)
    new.load_state_dict(handed_over(old.state_dict()))
    queries = torch.cat([features(task)[0] for task in (0, 1, 5)])
    for step in range(2):
        assert len(new) == len(old) == 2 + step
        assert all(torch.equal(a, b) for a, b in zip(old.score(queries), new.score(queries), strict=True))
        old.fit(*features(2))
        new.fit(*features(2))
    assert equal(old.state_dict(), new.state_dict())


def fitted(head: AnalyticHead, task: int) -> None:
    """Another experience of a closed form."""
    head.fit(*features(task))


def means(head: NearestMeanHead, task: int) -> None:
    """New means of all exemplars so far."""
    parts = [features(t) for t in range(task + 1)]
    head.fit(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), 6)


def units(head: LabelSpecificHead, task: int) -> None:
    """A task of a head that trains, after one that broke off."""
    x, y = features(task)
    for _ in range(2):
        head.begin(x[:4], y[:4])
    randomise(head, task)
    head.seal(y[:2], x[:2])


def projected(head: ProjectionFusionHead, task: int) -> None:
    """A task of a head that draws what it starts with, after one that broke off."""
    x, y = features(task)
    for _ in range(2):
        head.begin()
    randomise(head, task)
    head.learn(x, y, y[:2], x[:2])
    head.seal()


HEADS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], None]]] = {
    "nearest mean": (NearestMeanHead, means),
    "recursive": (lambda: AnalyticHead(RecursiveRidge(16)), fitted),
    "kernel": (lambda: AnalyticHead(KernelRidge()), fitted),
    "random projection": (lambda: AnalyticHead(RandomProjectionRidge(16), 1.0), fitted),
    "class means": (lambda: AnalyticHead(NearestClassMean(), 1.0), fitted),
    "label-specific": (LabelSpecificHead, units),
    "projections": (lambda: ProjectionFusionHead(WIDTH, 2), projected),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_goes_on_where_it_was(name):
    make, learn = HEADS[name]
    old, new = make(), make()
    for task in range(2):
        learn(old, task)
    draws = torch.get_rng_state()
    new.load_state_dict(handed_over(old.state_dict()))
    assert torch.equal(torch.get_rng_state(), draws)
    for part, other in zip(old.parameters(), new.parameters(), strict=True):
        other.requires_grad_(part.requires_grad)
    queries, logits = torch.cat([features(task)[0] for task in range(3)]), 5 * torch.randn(180, 6)
    for _ in range(2):
        with torch.no_grad():
            a, b = old.eval()(queries, logits), new.eval()(queries, logits)
        assert torch.equal(a, b) and not torch.equal(a, logits)
        learn(old.train(), 2)
        learn(new.train(), 2)
    assert equal(old.state_dict(), new.state_dict())


@pytest.mark.parametrize("name", ["label-specific", "projections"])
def test_a_head_whose_task_is_open_is_open_again(name):
    make, learn = HEADS[name]
    old, new = make(), make()
    learn(old, 0)
    old.begin(*features(1, 4)) if name == "label-specific" else old.begin()
    new.load_state_dict(handed_over(old.state_dict()))
    assert new.open
    learn(old, 1)
    learn(new, 1)
    assert equal(old.state_dict(), new.state_dict())
