"""Features that are computed once per image: found again, told apart, and never wrong."""

from __future__ import annotations

import copy
import errno
import pickle
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from made import tiny as tiny_vlm
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.feature_cache import FeatureCache, _check


@pytest.fixture
def random_model():
    """One whose features are 128 numbers, as the bytes of caches have it."""
    return tiny_vlm("random")


@pytest.fixture
def encoded(random_model, monkeypatch) -> list[int]:
    """How many images each call of the encoder got."""
    return count(random_model, monkeypatch)


def count(model, monkeypatch) -> list[int]:
    calls, encode = [], model.clip.encode_image

    def counted(images, **kwargs):
        calls.append(len(images))
        return encode(images, **kwargs)

    monkeypatch.setattr(model.clip, "encode_image", counted)
    return calls


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(12, 3, 32, 32)


def plain(model, images: torch.Tensor) -> torch.Tensor:
    """From the tower itself; with gradients attention takes another kernel, whose last digits differ."""
    with model.evaluating():
        return model.encode_image_plain(images)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_every_image_is_encoded_once(tmp_path, random_model, encoded, images):
    cache = FeatureCache(tmp_path)
    expected = plain(random_model, images)
    encoded.clear()
    random_model.train()
    assert torch.equal(cache.features(random_model, images), expected)
    assert encoded == [12] and random_model.training
    # In any order, beside new ones, twice in a batch, and as they come from the tower.
    new = torch.randn(2, 3, 32, 32)
    mixed = torch.cat([images[[3, 0, 3]], new, new])
    found = cache.features(random_model, mixed)
    assert encoded == [12, 2]
    torch.testing.assert_close(found, plain(random_model, mixed), atol=1e-6, rtol=0)
    raw = cache.features(random_model, images, normalize=False)
    assert torch.equal(torch.nn.functional.normalize(raw, dim=-1), expected)


def test_another_process_finds_them(tmp_path, random_model, encoded, images):
    cache = FeatureCache(tmp_path)
    first = cache.features(random_model, images)
    assert files(tmp_path) == [] and cache.stored().ram == 12 * (4 * 128 + 16)
    cache.flush()
    (file,) = files(tmp_path)
    assert cache.stored().disk == file.stat().st_size and cache.stored().ram == 12 * 16
    again = FeatureCache(tmp_path)
    # Of a file that another process has written two images are computed again, once.
    assert torch.equal(again.features(random_model, images), first) and encoded == [12, 2]
    assert torch.equal(again.features(random_model, images), first) and encoded == [12, 2]
    assert again.stored() == cache.stored()
    # So does a copy, and a model of the same weights.
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert torch.equal(other.features(random_model, images), first)
    twin = copy.deepcopy(random_model)
    encoded.clear()
    assert torch.equal(again.features(twin, images), first) and encoded == []


def test_features_of_weights_of_half_precision_are_found_again(tmp_path, images):
    model = create_vlm("tiny", precision="pure_bf16")
    first = FeatureCache(tmp_path)
    expected = first.features(model, images)
    first.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no file of its own is damaged
        again = FeatureCache(tmp_path)
        assert torch.equal(again.features(model, images), expected) and expected.dtype == torch.float32
    assert again.stored().disk == first.stored().disk > 0


def test_a_full_buffer_is_written(tmp_path, random_model, images):
    cache = FeatureCache(tmp_path, buffer=6 * 128 * 4)
    cache.features(random_model, images[:5])
    assert files(tmp_path) == []
    cache.features(random_model, images[:7])
    assert len(files(tmp_path)) == 1 and cache.stored().ram == 7 * 16


def changes():
    def weight(model):
        with torch.no_grad():
            model.clip.visual.proj[0, 0] += 1e-3

    def data(model):
        model.clip.visual.proj.data = model.clip.visual.proj.data * 1.01

    def fused(model):
        model.unfreeze("image")
        optimizer = torch.optim.SGD(model.tower("image").parameters(), lr=0.1, fused=True)
        model.encode_image_plain(torch.randn(2, 3, 32, 32)).sum().backward()
        optimizer.step()
        model.freeze("image")

    def heads(model):
        next(m for m in model.clip.visual.modules() if isinstance(m, torch.nn.MultiheadAttention)).num_heads = 2

    def transform(model):
        model.transforms.eval.mean = (0.4, 0.5, 0.5)

    return weight, data, fused, heads, transform


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_what_changes_the_features_changes_the_key(tmp_path, random_model, encoded, images, change):
    cache = FeatureCache(tmp_path)
    before = cache.features(random_model, images)
    change(random_model)
    encoded.clear()
    after = cache.features(random_model, images)
    assert encoded == [12]
    assert torch.equal(after, plain(random_model, images))
    if change.__name__ != "transform":  # then the images would be others, and here they are not
        assert not torch.equal(after, before)


def test_precisions_and_models_are_told_apart(tmp_path, random_model, images):
    cache = FeatureCache(tmp_path)
    full = cache.features(random_model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = cache.features(random_model, images)
    torch.manual_seed(1)
    other = cache.features(tiny_vlm("random"), images)
    assert not torch.equal(half, full) and not torch.equal(other, full)
    cache.flush()
    assert len(list(tmp_path.iterdir())) == 3
    assert torch.equal(FeatureCache(tmp_path).features(random_model, images), full)


def test_an_experience_is_loaded_once(tmp_path, random_model, encoded, images):
    class Experience:
        pass

    loads = []

    def batches():
        loads.append(1)
        for rows in torch.arange(12).split(5):
            yield images[rows], rows, torch.zeros(len(rows), dtype=torch.long)

    cache, one = FeatureCache(tmp_path), Experience()
    first = cache.experience(random_model, one, batches)
    assert set(first) == {"features", "y", "task"} and first["y"].tolist() == list(range(12))
    assert torch.equal(first["features"], cache.features(random_model, images))
    assert cache.experience(random_model, one, batches)["features"] is first["features"]
    assert len(loads) == 1 and encoded == [5, 5, 2] and len(files(tmp_path)) == 1
    account = cache.stored()
    assert account.ram == 12 * (4 * 128 + 8 + 8) + 12 * 16
    # Another experience, or another tower, is another matter; a new cache reads, and encodes a sample.
    cache.experience(random_model, Experience(), batches)
    assert len(loads) == 2
    FeatureCache(tmp_path).experience(random_model, one, batches)
    assert len(loads) == 3 and encoded == [5, 5, 2, 2]
    again = cache.experience(random_model, one, batches)
    changes()[0](random_model)
    assert not torch.equal(cache.experience(random_model, one, batches)["features"], again["features"])
    assert encoded == [5, 5, 2, 2, 5, 5, 2]


def test_the_past_experience_is_not_kept_alive(tmp_path, random_model, images):
    class Experience:
        pass

    cache, one = FeatureCache(tmp_path), Experience()
    cache.experience(random_model, one, lambda: [(images, torch.arange(12), torch.zeros(12))])
    gone = weakref.ref(one)
    del one
    assert gone() is None


def damage():
    def truncated(path):
        path.write_bytes(path.read_bytes()[:-100])

    def flipped(path):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    def foreign(path):
        save_file({"weights": torch.ones(3)}, path)

    def moved(path):  # from the folder of another tower
        tensors = load_file(path)
        save_file(tensors, path, {"format": "avalanche_vlm features 1", "key": "another", "sha256": ""})

    def text(path):
        path.write_text("no tensors")

    return truncated, flipped, foreign, moved, text


@pytest.mark.parametrize("how", damage(), ids=lambda how: how.__name__)
def test_a_damaged_file_is_computed_again(tmp_path, random_model, encoded, images, how):
    cache = FeatureCache(tmp_path)
    expected = cache.features(random_model, images)
    cache.flush()
    (path,) = files(tmp_path)
    how(path)
    again = FeatureCache(tmp_path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged or no file of this feature cache"):
        found = again.features(random_model, images)
    assert torch.equal(found, expected) and encoded == [12, 12]
    again.flush()  # the same features have the same file, which is whole again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(FeatureCache(tmp_path).features(random_model, images), expected)
    assert encoded == [12, 12, 2]


FORGED = {
    "NaN": lambda d, f: (d, f.index_fill(0, torch.tensor(3), float("nan"))),
    "infinite": lambda d, f: (d, f.index_fill(1, torch.tensor(0), float("inf"))),
    "float64": lambda d, f: (d, f.double()),
    "int32": lambda d, f: (d, f.to(torch.int32)),
    "narrower": lambda d, f: (d, f[:, :-1].contiguous()),
    "a row less": lambda d, f: (d, f[:-1].contiguous()),
    "flat": lambda d, f: (d, f.reshape(-1)),
    "cubic": lambda d, f: (d, f[:, None]),
    "no digests": lambda d, f: (d.float(), f),
    "shorter digests": lambda d, f: (d[:, :8].contiguous(), f),
}
"""What a file may have whose digest is right."""


@pytest.mark.parametrize("what", FORGED)
def test_what_is_no_feature_is_not_served_whatever_its_digest(tmp_path, random_model, encoded, images, what):
    cache = FeatureCache(tmp_path)
    expected = cache.features(random_model, images)
    cache.flush()
    (path,) = files(tmp_path)
    with safe_open(path, "pt") as file:
        facts, digests, features = file.metadata(), file.get_tensor("digests"), file.get_tensor("features")
    digests, features = FORGED[what](digests, features)
    save_file({"digests": digests, "features": features}, path, {**facts, "sha256": _check(digests, features)})
    again = FeatureCache(tmp_path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged or no file of this feature cache"):
        assert torch.equal(again.features(random_model, images), expected)
    assert encoded == [12, 12]


WRONG = {
    "zero": torch.zeros_like,
    "of other images": lambda f: f.roll(1, 0),
    "turned round": lambda f: -f,
    "a tenth longer": lambda f: 1.1 * f,
    "noise": lambda f: f + 0.1 * f.norm(dim=1, keepdim=True) * torch.randn(f.shape) / f.shape[1] ** 0.5,
}
"""Features that are finite, of the right type and shape, and not what the tower gives."""


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_was_made_up_is_told_by_a_sample_that_is_computed_again(tmp_path, random_model, images, what):
    cache = FeatureCache(tmp_path)
    expected = cache.features(random_model, images)
    cache.flush()
    (path,) = files(tmp_path)
    with safe_open(path, "pt") as file:
        facts, digests, features = file.metadata(), file.get_tensor("digests"), file.get_tensor("features")
    features = WRONG[what](features).contiguous()
    save_file({"digests": digests, "features": features}, path, {**facts, "sha256": _check(digests, features)})
    again, before = FeatureCache(tmp_path), torch.get_rng_state()
    with pytest.warns(UserWarning, match=f"{path.name} is damaged or no file of this feature cache"):
        assert torch.equal(again.features(random_model, images), expected)
    assert torch.equal(torch.get_rng_state(), before)
    again.flush()  # in the place of the file that was made up
    assert torch.equal(FeatureCache(tmp_path).features(random_model, images), expected)


def test_a_feature_of_another_precision_is_near_enough(tmp_path, random_model, images):
    cache = FeatureCache(tmp_path)
    cache.features(random_model, images)
    cache.flush()
    (path,) = files(tmp_path)
    with safe_open(path, "pt") as file:
        facts, digests, features = file.metadata(), file.get_tensor("digests"), file.get_tensor("features")
    near = features.bfloat16().float()
    save_file({"digests": digests, "features": near}, path, {**facts, "sha256": _check(digests, near)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served = FeatureCache(tmp_path).features(random_model, images, normalize=False)
    assert torch.equal(served, near)


def test_a_full_disk_loses_nothing(tmp_path, random_model, encoded, images, monkeypatch):
    cache = FeatureCache(tmp_path, buffer=4 * 128 * 4)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("avalanche_vlm.storage.durable.os.replace", full)
        with pytest.warns(UserWarning, match=r"cannot write to .* \(No space left on device\): 6 features stay"):
            first = cache.features(random_model, images[:6])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(cache.features(random_model, images[:6]), first)  # and it is not asked at once again
    assert encoded == [6] and [p for p in tmp_path.rglob("*") if p.is_file()] == []
    cache.flush()
    assert torch.equal(FeatureCache(tmp_path).features(random_model, images[:6]), first) and encoded == [6, 2]


def test_what_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file: a feature cache needs a folder"):
        FeatureCache(tmp_path / "file")
    with pytest.raises(InputError, match="1 byte or more"):
        FeatureCache(tmp_path, buffer=0)
