"""``doctor``: what is here, and what is missing for what."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from avalanche_vlm._memory import memory
from avalanche_vlm._processors import cores, crowded, machine_load
from avalanche_vlm._versions import package_versions
from avalanche_vlm.commands.requests import DoctorRequest
from avalanche_vlm.units import human_bytes, in_short, tell

FEATURES: Mapping[str, str] = {
    "hf": "tokenizers and text towers of Hugging Face's (SigLIP and others)",
    "serve": "a model that answers over HTTP (avalanche-vlm serve)",
    "parquet": "tables with images in a column (--data of .parquet)",
    "generate": "pairs that a text-to-image model draws (--generator)",
    "tensorboard": "logs for TensorBoard (--log tensorboard)",
    "wandb": "logs as runs of Weights & Biases (--log wandb)",
    "mlflow": "logs as runs of MLflow (--log mlflow)",
    "ray": "runs on a Ray cluster (--engine ray)",
    "slurm": "runs as jobs of Slurm's (--engine slurm)",
    "test": "developers of the package, its tests",
    "browser": "developers of the package, its tests in a browser",
    "docs": "developers of the package, the site of its documentation",
}
"""What each extra is for, in the order in which they are told: those for developers of the package last."""

_ON = ("1", "ON", "YES", "TRUE")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the environment that forbid downloads, as Hugging Face's packages read them."""
SECONDS = 120.0
"""How long torch may take to be imported."""
MOST_FILES = 200_000
"""Files of a cache that are counted, at most."""

_PROBE = """
import json, torch
known = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": []}
if torch.cuda.is_available():
    for number in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(number)
        known["devices"].append({"device": f"cuda:{number}", "name": of.name, "memory_bytes": of.total_memory})
float(torch.ones(8, 8).matmul(torch.ones(8, 8)).sum())
print(json.dumps(known))
"""


def doctor(request: DoctorRequest) -> int:
    """Print what is here and what is missing, in words or as JSON.

    :param request: what was asked for.
    :return: exit code of the process: 0, or 1 where something is missing that every command that trains needs.
    """
    found = examined()
    tell(json.dumps(found, indent=1) if request.as_json else "\n".join(_lines(found)))
    return 0 if found["usable"] else 1


def examined(python: str = sys.executable) -> dict[str, Any]:
    """What is here, in JSON types. torch is tried in a process of its own, which it may take down with it.

    :param python: the interpreter that torch is tried in.
    """
    torch = probed(python)
    needed, extras = requirements()
    missing = [name for name in needed if not _there(name)]
    remarks = [f"{name} is not installed, and every installation has it" for name in missing]
    if torch["error"] is not None:
        remarks.append(f"torch cannot be used: {torch['error']}")
    if (why := crowded(torch.get("threads") or cores())) is not None:
        remarks.append(why)
    return {
        "usable": not missing and torch["error"] is None,
        "versions": package_versions(),
        "system": {
            "platform": platform.platform(),
            "processors": cores(),
            "load": machine_load(),
            "memory_bytes": memory(),
        },
        "torch": torch,
        "caches": [cache for name, path in places().items() for cache in [_measured(name, path)]],
        "offline": next((name for name in OFFLINE if os.environ.get(name, "").upper() in _ON), None),
        "extras": [
            {"name": name, "for": FEATURES.get(name, ""), "missing": [of for of in names if not _there(of)]}
            for name, names in sorted(extras.items(), key=lambda extra: [*FEATURES, extra[0]].index(extra[0]))
        ],
        "remarks": remarks,
    }


def probed(python: str) -> dict[str, Any]:
    """What torch says of itself, and why it does not.

    :param python: the interpreter that is asked.
    :return: ``error``, None where it works, beside ``version``, ``threads``, ``cuda`` and ``devices``.
    """
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"it is not imported within {SECONDS:.0f} s"}
    except OSError as error:
        return {"error": f"{python} does not start: {error.strerror}"}
    try:
        return {"error": None, **json.loads(done.stdout.strip().splitlines()[-1])}
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        return {"error": in_short(said[-1], 300) if said else f"it ends with {done.returncode}"}


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Distributions that every installation has, and those of each extra, as the installed package says."""
    always: list[str] = []
    extras: dict[str, list[str]] = {}
    try:
        lines = requires("avalanche-vlm") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        plain, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", plain.strip(), maxsplit=1)[0]
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", marker)
        if extra is not None:
            extras.setdefault(extra[1], []).append(name)
        elif "python_version" not in marker:
            always.append(name)
    return always, extras


def places() -> dict[str, Path]:
    """Where downloads are kept, by what keeps them."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub"
    return {
        "Hugging Face's hub": Path(hub),
        "open_clip": Path.home() / ".cache/clip",
        "torch": Path(os.environ.get("TORCH_HOME") or home / "torch"),
    }


def _measured(name: str, path: Path) -> dict[str, Any]:
    size = files = 0
    for folder, _, names in os.walk(path):
        for of in names:
            files += 1
            if files > MOST_FILES:
                break
            try:
                size += os.lstat(os.path.join(folder, of)).st_size
            except OSError:
                continue
    return {"name": name, "path": str(path), "there": path.is_dir(), "bytes": size, "files": files}


def _there(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _lines(found: Mapping[str, Any]) -> Sequence[str]:
    system, torch = found["system"], found["torch"]
    told = [f"{name} {number}" for name, number in found["versions"].items()]
    lines = ["versions: " + ", ".join(told), f"system: {system['platform']}"]
    busy = "" if system["load"] is None else f", with a load of {system['load']:.1f} over the last minute"
    room = "" if system["memory_bytes"] is None else f"; memory: {human_bytes(system['memory_bytes'])}"
    lines.append(f"processors: {system['processors']}{busy}{room}")
    if torch["error"] is None:
        devices = [f"{of['device']} {of['name']}, {human_bytes(of['memory_bytes'])}" for of in torch["devices"]]
        threads = f"{torch['threads']} thread{'s' * (torch['threads'] != 1)}"
        lines.append(f"torch: {threads}; devices: {', '.join(['cpu', *devices])}")
    lines += [
        f"cache of {of['name']}: {human_bytes(of['bytes']) if of['there'] else 'none'} in {of['path']}"
        for of in found["caches"]
    ]
    if found["offline"]:
        lines.append(f"network: {found['offline']} is set, and nothing is downloaded")
    for extra in found["extras"]:
        use = f", for {extra['for']}" if extra["for"] else ""
        if extra["missing"]:
            lacks = ", ".join(extra["missing"])
            lines.append(f"extra {extra['name']}{use}: pip install 'avalanche-vlm[{extra['name']}]' brings {lacks}")
        else:
            lines.append(f"extra {extra['name']}{use}: there")
    return [*lines, *(found["remarks"] or ["nothing is missing that every command needs"])]
