"""Files in batches: order, what cannot be read, and how many are held."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.sources.gathering import Gathered, gathered
from avalanche_vlm.benchmarks.sources.images import read_image
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.models import pictures
from avalanche_vlm.models.reading_files import read_batches

TRANSFORM = ImageTransform(16, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 3), (0, 64), (2, 3), (3, 1)])
def test_batches_come_in_order_whoever_reads_them(tmp_path, workers, batch_size):
    for i in range(11):
        path = save(tmp_path / f"{i}.png", picture(i))
        if i in (4, 5):
            truncate(path)
    batches = list(read_batches(partial(gathered, [tmp_path]), TRANSFORM, batch_size, workers))
    names = [name for batch in batches for name in batch.names]
    assert names == [str(tmp_path / f"{i}.png") for i in range(11)]
    assert [len(batch.names) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    problems = {name: problem for batch in batches for name, problem in zip(batch.names, batch.problems, strict=True)}
    assert [name for name, problem in problems.items() if problem] == names[4:6]
    expected = torch.stack([TRANSFORM(read_image(tmp_path / f"{i}.png")) for i in range(11) if i not in (4, 5)])
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)


def test_a_batch_of_nothing_but_problems_has_no_images(tmp_path):
    (batch,) = read_batches(
        lambda: [Gathered("a", None, "it is none"), Gathered("b", tmp_path / "b.png")], TRANSFORM, 4
    )
    assert batch.images.shape == (0, 3, 16, 16) and batch.names == ["a", "b"]
    assert batch.problems == ["it is none", f"there is no image file at {tmp_path / 'b.png'}"]


def test_of_many_files_no_more_than_a_batch_is_read_ahead(tmp_path, monkeypatch):
    path, read = save(tmp_path / "one.png"), []
    monkeypatch.setattr(pictures, "read_image", lambda p: read.append(p) or read_image(path))
    asked = (Gathered(str(i), path) for i in range(10**9))
    batches = read_batches(lambda: asked, TRANSFORM, 5)
    for number in range(1, 4):
        next(batches)
        assert len(read) == 5 * number
