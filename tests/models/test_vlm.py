"""The wrapper: label spaces, the cached head, frozen towers, pairs."""

from __future__ import annotations

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from mini import mini

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED, from_open_clip
from avalanche_vlm.models.tiny import build_tokenizer
from avalanche_vlm.weights.average import snapshot

PLAIN = PromptTemplates("t", ("a {}",))
SPACE = LabelSpace(("star", "heart", "red", "blue", "green"), ((0, 1), (2, 3, 4)), "task", (PLAIN,))


class Experience:
    """What the model reads of an Avalanche experience."""

    def __init__(self, classes, tasks=(0,), label_space=SPACE, index=0):
        self.classes_in_this_experience = set(classes)
        self.task_labels = list(tasks)
        self.label_space = label_space
        self.current_experience = index


@pytest.fixture
def model(random_model):
    return random_model.eval().set_label_space(SPACE)


@pytest.fixture
def images():
    return torch.randn(6, 3, 32, 32)


def counted(model) -> list[int]:
    """The number of texts in each pass of the text tower from now on."""
    calls: list[int] = []
    model.clip.token_embedding.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


def visible(logits: torch.Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in logits > MASKED]


@torch.no_grad()
def test_under_task_a_sample_competes_among_its_own_tasks_classes(model, images):
    together = model(images[:3], torch.tensor([0, 1, 0]))
    assert visible(together) == [[0, 1], [2, 3, 4], [0, 1]]
    everything = model(images[:3])
    assert visible(everything) == [[0, 1, 2, 3, 4]] * 3
    open_ = together > MASKED
    torch.testing.assert_close(together[open_], everything[open_], atol=1e-4, rtol=0)
    torch.testing.assert_close(model(images[:3], 1), model(images[:3], torch.tensor([1, 1, 1])))


@torch.no_grad()
@pytest.mark.parametrize("visible", ["task", "seen", "union"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_batch_of_no_images_has_no_logits(random_model, images, visible, mode):
    model = random_model.set_label_space(LabelSpace.from_names(["a", "b", "c"], visible=visible)).train(mode)
    assert model(images[:0], torch.zeros(0, dtype=torch.long)).shape == model(images[:0]).shape == (0, 3)


def test_none_asks_for_every_known_task_as_avalanche_means_it(model, images):
    for label in (0, 1):
        model.train().adaptation(Experience(SPACE.tasks[label], [label]))
    outputs = model.eval()(images, None)
    assert set(outputs) == {0, 1} and visible(outputs[1]) == [[2, 3, 4]] * 6


@torch.no_grad()
def test_of_an_evaluation_nothing_is_kept_and_an_untrained_tasks_samples_have_its_own_classes(model, images):
    model.set_label_space(SPACE.with_visible("seen"))
    model.train().adaptation(Experience([0, 1], [0]))
    assert visible(model(images))[0] == [0, 1]
    model.eval().adaptation(Experience([2, 3, 4], [1]))
    assert visible(model(images[:3], torch.tensor([1, 0, 1]))) == [[0, 1, 2, 3, 4], [0, 1], [0, 1, 2, 3, 4]]
    assert visible(model(images))[0] == visible(model.train()(images))[0] == [0, 1]


@torch.no_grad()
def test_the_union_is_everything_and_experiences_bring_their_label_space(random_model, images):
    random_model.eval().adaptation(Experience([0], label_space=SPACE.with_visible("union")))
    assert visible(random_model(images)) == [[0, 1, 2, 3, 4]] * 6
    with pytest.raises(InputError, match="class id 9, but the label space names only 5"):
        random_model.adaptation(Experience([9], label_space=SPACE))


@torch.no_grad()
def test_logits_are_scaled_cosines_with_the_prompts(model, images):
    text = model.encode_text(build_tokenizer()(["a star", "a heart", "a red", "a blue", "a green"]))
    expected = model.clip.logit_scale.exp() * model.encode_image(images) @ text.T
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_ensemble_is_the_normalised_mean_of_its_prompts(model, images):
    templates = PromptTemplates("e", ("a {}", "there is a {} shape", "{}"))
    model.set_label_space(LabelSpace(SPACE.class_names, SPACE.tasks, "union", (templates,)))
    features = [
        F.normalize(model.encode_text(model.tokenize(templates.fill(name))).mean(0), dim=0)
        for name in SPACE.class_names
    ]
    expected = model.scale * model.encode_image(images) @ torch.stack(features).T
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(model(images, 0), expected, atol=1e-4, rtol=0)
    model.set_label_space(LabelSpace(SPACE.class_names, SPACE.tasks, "task", (templates,)))
    torch.testing.assert_close(model(images, 1)[:, 2:], expected[:, 2:], atol=1e-4, rtol=0)
    with torch.enable_grad():
        torch.testing.assert_close(model(images, 1)[:, 2:], expected[:, 2:], atol=1e-4, rtol=0)


def test_a_frozen_text_tower_is_encoded_once(model, images):
    calls = counted(model)
    model.freeze("text")
    for _ in range(3):
        model(images, 0).sum().backward()
        with torch.no_grad():
            model(images, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert calls == [2, 3]  # a pass for each task's classes


STEPS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_step_of_the_text_tower_invalidates_the_head(model, images, optimizer):
    with torch.no_grad():
        before = model(images)
    step = STEPS[optimizer]([p for _, p in model.tower_parameters("text")])
    F.cross_entropy(model(images), torch.zeros(6, dtype=torch.long)).backward()
    step.step()
    with torch.no_grad():
        after = model(images)
        model.set_label_space(SPACE)  # a new head, surely without a cache
        assert torch.equal(after, model(images))
    assert not torch.allclose(before, after)


def step_on_pairs(model, images, step):
    """A contrastive step, which never touches the head."""
    model(ImageText(images[:2], model.tokenize(["a star", "a heart"]))).diagonal().sum().backward()
    step.step()


def step_after_a_look(model, images, step):
    """A prediction between the pass and the step that follows from it."""
    model(images).diagonal().sum().backward()
    with torch.no_grad():
        model(images)
    step.step()


def step_and_freeze(model, images, step):
    """The last step before the tower is frozen."""
    step_after_a_look(model, images, step)
    model.freeze("text")


def step_between_two_freezings(model, images, step):
    """What was encoded while the tower was frozen before is not what is encoded while it is frozen again."""
    model.freeze("text")
    with torch.no_grad():
        model(images)
    model.unfreeze("text")
    step_on_pairs(model, images, step)
    model.freeze("text")


@pytest.mark.parametrize("take", [step_on_pairs, step_after_a_look, step_and_freeze, step_between_two_freezings])
def test_a_fused_step_is_seen_wherever_it_falls(model, images, take):
    step = STEPS["AdamW fused"]([p for _, p in model.tower_parameters("text")])
    with torch.no_grad():
        before = model(images)
    take(model, images, step)
    with torch.no_grad():
        after = model(images)
        assert torch.equal(after, model.set_label_space(SPACE)(images))
    assert not torch.allclose(before, after)


@torch.no_grad()
def test_a_write_through_data_is_not_seen_until_the_label_space_is_set_again(model, images):
    before = model(images)
    weight = model.clip.token_embedding.weight
    weight.data.copy_(torch.randn_like(weight))
    assert torch.equal(model(images), before)  # torch raises no version counter there
    assert not torch.allclose(model.set_label_space(SPACE)(images), before)


def test_evaluation_between_steps_encodes_once(model, images):
    calls = counted(model)
    step = torch.optim.SGD([p for _, p in model.tower_parameters("text")], lr=0.1)
    for _ in range(2):
        model.train()(images, 0).sum().backward()
        step.step()
        model.eval()
        with torch.no_grad():
            for _ in range(3):
                model(images)
    assert calls == [2, 2, 3, 2, 2, 3]  # of the task that trains, then of both tasks


@torch.no_grad()
def test_loaded_weights_invalidate_the_head_and_copies_have_their_own(model, images):
    before = model(images)
    twin = copy.deepcopy(model)
    other = mini()
    torch.nn.init.normal_(other.clip.token_embedding.weight)
    model.load_state_dict(other.state_dict())
    model_after = model(images)
    assert not torch.allclose(before, model_after)
    assert torch.equal(twin(images), before)


def test_training_encodes_only_the_classes_that_compete(model, images):
    calls = counted(model)
    model.train()(images, 1).sum().backward()
    assert calls == [3]


def test_frozen_towers_stay_in_eval_mode_without_gradients(model, images):
    model.freeze("image").train()
    assert not model.clip.visual.training and model.clip.transformer.training
    F.cross_entropy(model(images), torch.zeros(6, dtype=torch.long)).backward()
    assert all(p.grad is None for _, p in model.tower_parameters("image"))
    assert all(p.grad is not None for _, p in model.tower_parameters("text"))
    assert model.frozen == ("image", "scale")
    assert set(model.trainable_parameters()) == {f"clip.{name}" for name, _ in model.tower_parameters("text")}
    model.unfreeze("image", "scale")
    assert model.clip.visual.training and model.frozen == ()
    assert len(model.trainable_parameters()) == len(list(model.parameters()))
    with pytest.raises(InputError, match="has the towers image, text, scale, not 'audio'"):
        model.freeze("audio")


def test_pairs_give_in_batch_similarities_and_encode_each_caption_once(model, images):
    tokens = model.tokenize(["a red star", "a blue heart", "a red star", "a ring", "a ring", "a red star"])
    expected = model.scale * model.encode_image(images) @ model.encode_text(tokens).T
    calls = counted(model)
    logits = model(ImageText(images, tokens))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert calls == [3]


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(model, images, size):
    together = model(images, torch.tensor([0, 1, 0, 1, 0, 1])).softmax(1)
    for start in range(0, 6, size):
        part = slice(start, start + size)
        alone = model(images[part], torch.tensor([0, 1, 0, 1, 0, 1])[part]).softmax(1)
        torch.testing.assert_close(alone, together[part], atol=1e-5, rtol=0)


@torch.no_grad()
def test_siglips_bias_is_added(images):
    from open_clip.model import CLIP

    tokenizer = build_tokenizer()
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 20, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 1}
    clip = CLIP(16, vision, text, init_logit_scale=2.0, init_logit_bias=-7.0)
    model = from_open_clip(clip, tokenizer, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    model.set_label_space(SPACE)
    cosine = model.encode_image(images) @ model.encode_text(model.tokenize(["a star"])).T
    torch.testing.assert_close(model(images)[:, :1], clip.logit_scale.exp() * cosine - 7.0, atol=1e-4, rtol=0)
    assert "logit_bias" in dict(model.tower_parameters("scale"))


def test_prompts_beyond_the_vocabulary_are_refused():
    from open_clip.model import CLIP

    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    clip = CLIP(16, vision, {"context_length": 20, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1})
    model = from_open_clip(clip, build_tokenizer(), image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(InputError, match="knows only 50"):
        model.set_label_space(SPACE)
    with pytest.raises(InputError, match="gives 21 tokens per text, but custom's text tower takes at most 20"):
        model.encode_text(torch.zeros(1, 21, dtype=torch.long))


def test_what_cannot_be_classified_is_said(random_model, images):
    with pytest.raises(InputError, match="no label space"):
        random_model(images)
    random_model.set_label_space(SPACE)
    with pytest.raises(InputError, match=r"takes images \[batch, 3, 32, 32\], got \[6, 3, 16, 16\]"):
        random_model(images[..., :16, :16])
    random_model.set_label_space(SPACE.with_visible("task"))
    for label in (7, torch.full((6,), 7), torch.tensor([0, 0, 0, 0, 0, 7])):
        with pytest.raises(InputError, match="there is no task label 7"):
            random_model(images, label)
    with pytest.raises(InputError, match="there are 2 task labels for 6 images"):
        random_model(images, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda images: images.to(torch.uint8), "of floats, got uint8: give the benchmark"),
        (lambda images: images.numpy(), "as one tensor, got a ndarray: predict takes others"),
        (lambda images: list(images), "as one tensor, got a list: predict takes others"),
    ],
)
def test_what_are_no_images_for_the_model_is_said(model, images, other, said):
    with pytest.raises(InputError, match=said):
        model(other(images))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_taken_in_that_of_the_weights(model, images, dtype):
    assert torch.equal(model(images.to(dtype)), model(images.to(dtype).float()))
    twice = copy.deepcopy(model).double()
    assert torch.allclose(twice(images), model(images), atol=1e-3)
    assert twice.encode_image(images).dtype == torch.float32


def fresh(model, images) -> torch.Tensor:
    """The logits of a head that cannot have a cache."""
    model.set_label_space(SPACE)
    return model(images)


@torch.no_grad()
def test_an_unfrozen_text_tower_is_encoded_once_over_many_evaluations(model, images):
    calls = counted(model)
    for _ in range(3):
        model(images)
        model(images, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert calls == [2, 3]  # a pass for each task's classes


@torch.no_grad()
def test_a_change_of_the_text_tower_alone_invalidates_the_head(model, images):
    before = model(images)
    weights = snapshot(model.state_dict())
    weights["clip.token_embedding.weight"].normal_()
    model.load_state_dict(weights)
    after = model(images)
    assert not torch.allclose(before, after)
    assert torch.equal(after, fresh(model, images))


@pytest.mark.parametrize("optimizer", STEPS)
def test_training_on_pairs_invalidates_the_head_which_it_never_passes(model, images, optimizer):
    with torch.no_grad():
        before = model(images)
    step = STEPS[optimizer]([p for _, p in model.tower_parameters("text")])
    pairs = ImageText(images, model.tokenize([f"a {name}" for name in (*SPACE.class_names, "ring")]))
    F.cross_entropy(model.train()(pairs), torch.arange(6)).backward()
    step.step()
    model.eval()
    with torch.no_grad():
        after = model(images)
        assert torch.equal(after, fresh(model, images))
    assert not torch.allclose(before, after)


@torch.no_grad()
def test_pairs_answer_for_every_known_task_as_well(model, images):
    for label in (0, 1):
        model.train().adaptation(Experience(SPACE.tasks[label], [label]))
    pairs = ImageText(images, model.tokenize(["a star", "a heart", "a star", "red", "blue", "green"]))
    outputs = model.eval()(pairs, None)
    assert set(outputs) == {0, 1}
    for logits in outputs.values():
        torch.testing.assert_close(logits, model(pairs))


@torch.no_grad()
def test_a_class_head_answers_at_prediction_and_sees_what_competes(model, images):
    class Head(torch.nn.Module):
        def forward(self, features, logits):
            self.seen = features, logits
            return -logits

    plain = model(images, torch.tensor([0, 1, 0, 1, 0, 1]))
    model.class_head = Head()
    assert torch.equal(model(images, torch.tensor([0, 1, 0, 1, 0, 1])), -plain)
    features, logits = model.class_head.seen
    assert torch.equal(features, model.encode_image(images)) and torch.equal(logits, plain)
    # Training goes on against the prompts, whatever answers later.
    model.train()
    torch.testing.assert_close(model(images[:1], 0)[0], plain[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_taps_see_the_features_of_forward_and_of_nothing_else(model, images):
    seen = []
    model.taps.append(seen.append)
    model(images, 0)
    captions = ["a star", "a heart", "a star"]
    model(ImageText(images[:3], model.tokenize(captions)))
    model.encode_image(images)
    classes, pairs = seen
    assert torch.equal(classes.images, model.encode_image(images)) and classes.text_of_image is None
    assert torch.equal(classes.texts, model.prompt_features(classes.classes))
    assert classes.classes.tolist() == sorted(model.label_space.tasks[0])
    assert len(pairs.images) == 3 and len(pairs.texts) == 2 and pairs.classes is None
    expected = model.encode_text(model.tokenize(captions))
    torch.testing.assert_close(pairs.texts[pairs.text_of_image], expected, atol=1e-6, rtol=0)
    assert torch.equal(pairs.tokens[pairs.text_of_image], model.tokenize(captions))


@torch.no_grad()
def test_evaluating_leaves_the_mode_as_it_was(model):
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(ZeroDivisionError), model.evaluating() as same:
            assert same is model and not model.training and not torch.is_grad_enabled()
            _ = 1 / 0
        assert model.training == mode


@pytest.mark.parametrize("mode", [True, False])
def test_of_several_threads_the_last_one_puts_the_mode_back(model, mode):
    """The first one that was ready put it back while others were still being answered, and the last one to eval."""
    model.train(mode)
    inside, leave = threading.Barrier(2, timeout=30), threading.Event()
    found = []

    def ask():
        with model.evaluating():
            inside.wait()
            leave.wait(30)
            found.append((model.training, copy.deepcopy(model).training))

    with ThreadPoolExecutor(1) as threads:
        with model.evaluating():
            asked = threads.submit(ask)
            inside.wait()
        assert not model.training
        leave.set()
        asked.result()
    assert found == [(False, False)] and model.training == mode


def test_a_copy_that_is_made_while_the_model_answers_stands_in_no_block(model):
    with model.train().evaluating():
        twin = copy.deepcopy(model).train()
    with twin.evaluating():
        assert not twin.training
    assert twin.training and model.training


@torch.no_grad()
def test_prompt_features_are_those_of_the_classes(model):
    everything = model.prompt_features(torch.arange(5))
    torch.testing.assert_close(model.prompt_features(torch.tensor([1, 3])), everything[[1, 3]])


@torch.no_grad()
def test_prompts_of_classes_are_those_that_the_head_encodes(model):
    templates = PromptTemplates("e", ("a {}", "there is a {} shape"))
    model.set_label_space(LabelSpace(SPACE.class_names, SPACE.tasks, "union", (templates,)))
    classes = torch.tensor([0, 3, 4])
    prompts = model.prompts(classes)
    texts = [text for c in classes for text in templates.fill(SPACE.class_names[c])]
    assert len(prompts) == 3 and torch.equal(prompts.tokens, model.tokenize(texts))
    torch.testing.assert_close(prompts.encode(model.encode_text), model.prompt_features(classes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_features_of_one_precision_are_not_kept_for_another(model, images, frozen):
    if frozen:
        model.freeze("text")
    exact = model(images)
    calls = counted(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = [model.prompt_features(torch.arange(5)) for _ in range(2)]
    assert calls == [2, 3] and torch.equal(*coarse)  # a pass for each task
    assert torch.equal(model(images), exact) and calls == [2, 3, 2, 3]
    assert not torch.equal(coarse[0], model.prompt_features(torch.arange(5)))


def test_what_trains_and_which_towers_are_frozen_is_taken_over(random_model):
    random_model.freeze("text").unfreeze("scale")
    next(random_model.clip.visual.parameters()).requires_grad_(False)
    state = json.loads(json.dumps(random_model.training_state()))
    fresh = mini().load_training_state(state)
    assert fresh.training_state() == state
    assert list(fresh.trainable_parameters()) == list(random_model.trainable_parameters())
    assert fresh.frozen == ("text",)
    assert not fresh.train().clip.transformer.training


def test_a_parameter_that_is_to_train_and_is_not_there(random_model):
    before = random_model.training_state()
    with pytest.raises(InputError, match=r"no parameter clip\.odd, which is to train"):
        random_model.load_training_state({"trains": ["clip.odd"], "frozen": ["image"]})
    assert random_model.training_state() == before
