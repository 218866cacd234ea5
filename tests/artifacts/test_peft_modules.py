"""Modules of LoRA lie in the folder as peft's files, which peft reads onto open_clip's model."""

from __future__ import annotations

import pytest
import torch
from trained import short_stream, train

from avalanche_vlm.artifacts import open_saved, save_model
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.modules.unfused import unfuse_attention

peft = pytest.importorskip("peft")


@pytest.mark.slow
def test_peft_reads_the_modules_of_every_task(tmp_path):
    found = train("lora", short_stream("classes"), create_vlm)
    save_model(tmp_path, found.model, **found.how)
    assert open_saved(tmp_path).description.modules == ["task_0", "task_1"]
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pool = found.model.eval().routed.pool
    for name in pool.names:
        clip = unfuse_attention(create_vlm("tiny").clip)
        adapted = peft.PeftModel.from_pretrained(clip, tmp_path / "model" / "peft" / name).eval()
        with torch.no_grad(), pool.using(name):
            ours = found.model.encode_image_plain(images, normalize=False)
            plain = create_vlm("tiny").eval().encode_image(images, normalize=False)
            theirs = adapted.base_model.model.encode_image(images)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
        assert (ours - plain).abs().max() > 1e-3


def test_modules_of_other_kinds_are_no_files_of_pefts(tmp_path):
    found = train("adapter-per-task", short_stream("classes"), create_vlm)
    save_model(tmp_path, found.model, **found.how)
    assert open_saved(tmp_path).description.modules == [] and not (tmp_path / "model" / "peft").exists()
