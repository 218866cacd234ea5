"""What was saved here predicts in a process of its own what it predicted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trained import answers, short_stream, train

from avalanche_vlm.artifacts import save_model
from avalanche_vlm.models import create_vlm

ELSEWHERE = """
import json, sys
jobs = json.load(open(sys.argv[1]))
sys.path.insert(0, jobs["support"])
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
torch.rand(7)
from avalanche_vlm import load
from trained import answers, short_stream
for folder, kind in jobs["models"]:
    found = answers(load(folder), short_stream(kind))
    save_file({str(i): tensor.contiguous() for i, tensor in enumerate(found)}, folder + "/found.safetensors")
"""


@pytest.mark.slow
def test_saved_models_predict_elsewhere_as_they_did_here(tmp_path, pytestconfig):
    kinds = {"zscl": "pairs", "lora": "classes", "icarl": "classes", "ranpac": "classes"}
    if pytestconfig.getoption("--grid"):
        kinds |= {"moe-adapters": "classes", "rapf": "classes", "l2p": "classes", "coop": "classes", "c-clip": "pairs"}
    wanted, models = {}, []
    for recipe, kind in kinds.items():
        found = train(recipe, short_stream(kind), create_vlm)
        save_model(tmp_path / recipe, found.model, **found.how)
        wanted[recipe] = answers(found.model, found.benchmark)
        models.append((str(tmp_path / recipe), kind))
    jobs = {"support": str(Path(__file__).parents[1] / "support"), "models": models}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "jobs.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for recipe, expected in wanted.items():
        found = load_file(tmp_path / recipe / "found.safetensors")
        assert len(found) == len(expected)
        assert all(torch.equal(found[str(i)], tensor) for i, tensor in enumerate(expected)), recipe
