"""The cost ledger: what a recipe stores, computes and changes, measured where it was run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import torch

from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.evaluation.passes import PassesPlugin, inference_flops
from avalanche_vlm.evaluation.results import LedgerEntry
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.memory.base import Memory
from avalanche_vlm.memory.state import (
    WORKING,
    Declared,
    StateDict,
    Stateful,
    keeps_raw_data,
    stateful_parts,
    stored_bytes,
    undeclared,
)
from avalanche_vlm.models import VLM
from avalanche_vlm.models.routers import ReferenceGate


class Ledger(Stateful):
    """Watches a run from before its recipe is built to its end, and gives its entry.

    Its state is what it has seen so far; what :attr:`plugin` counts is that plugin's own.

    :param model: the pretrained model, not adapted yet.
    :param benchmark: stream that the model will be trained on.
    :param device: where it will be; None for where it is.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_ram": WORKING,
        "_disk": WORKING,
        "_trainable": WORKING,
        "_peak": WORKING,
    }

    def __init__(self, model: VLM, benchmark: VLMBenchmark, device: torch.device | None = None) -> None:
        self.model, self.benchmark = model, benchmark
        self.plugin = PassesPlugin(model, min(1, len(benchmark.train_stream) - 1))
        """Goes before all other plugins."""
        self._pretrained = fingerprints(model)
        self._bytes = _module_bytes(model)
        self._parameters = sum(p.numel() for p in model.parameters())
        self._ram = self._disk = self._trainable = 0
        self._peak = PeakMemory(model.device if device is None else device)

    def after_experience(
        self,
        plugins: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        numbers: Callable[[torch.Tensor], int] = torch.Tensor.numel,
    ) -> None:
        """Note what is stored, and what the optimizer holds: a module that was merged at the task's end is no longer
        in the model.

        :param plugins: plugins whose stored bytes count.
        :param optimizer: optimizer of the experience.
        :param numbers: tells how many numbers one of its parameters has, in all processes.
        """
        most = max(self._stored, stored_bytes(plugins), key=lambda stored: stored.total)
        self._ram, self._disk = most.ram, most.disk
        trained = (p for group in optimizer.param_groups for p in group["params"])
        self._trainable = max(self._trainable, sum(map(numbers, trained)))

    @property
    def _stored(self) -> StoredBytes:
        """The most that was stored at a task's end so far."""
        return StoredBytes(self._ram, self._disk)

    @property
    def costs(self) -> dict[str, int]:
        """What the same seed gives again."""
        return {
            "stored_bytes": self._stored.total,
            "trainable_parameters": self._trainable,
            "added_parameters": sum(p.numel() for p in self.model.parameters()) - self._parameters,
            "model_parameters": self._parameters,
        }

    def entry(self, used: Iterable[str], plugins: Iterable[Any], train_seconds: float) -> LedgerEntry:
        """Everything, when the stream is trained.

        Stored bytes are the largest at a task's end. Operations and passes are those of the second task, with all that
        surrounds its epochs, per sample and epoch; passes are the image tower's. Whether raw user data are kept is
        what the plugins declare, at the end; None if nobody knows, because some declare nothing, which are named.

        :param used: names of the resources that the training made use of: ``"reference"``, ``"generator"``. A
            :class:`~avalanche_vlm.models.routers.ReferenceGate` in the model stands for reference pairs, whoever put
            it there.
        :param plugins: the recipe's plugins.
        :param train_seconds: measured seconds of the whole training.
        """
        model, plugins, used = self.model, list(plugins), set(used)
        gated = any(isinstance(part, ReferenceGate) for part in model.modules())
        changed = not self._pretrained <= fingerprints(model)
        passes, costs = self.plugin, self.costs
        return {
            "stored_ram_bytes": self._stored.ram,
            "stored_disk_bytes": self._stored.disk,
            "reference_pairs_needed": gated or "reference" in used,
            "generator_needed": "generator" in used,
            "raw_user_data_kept": keeps_raw_data(plugins),
            "undeclared_plugins": undeclared(plugins),
            "trainable_parameters": costs["trainable_parameters"],
            "added_parameters": costs["added_parameters"],
            "train_seconds": round(train_seconds, 2),
            "peak_memory_bytes": self._peak.read(),
            "extra_forward_passes_per_sample": _rounded(passes.extra_forwards, 3),
            "extra_backward_passes_per_sample": _rounded(passes.extra_backwards, 3),
            "training_flops_per_sample": _rounded(passes.flops_per_sample, 0),
            "inference_flops_per_sample": round(self._inference_flops()),
            "artifacts": self._artifacts(plugins, changed),
            "task_id_needed": needs_task_id(model, self.benchmark),
            "reversible": not changed,
        }

    def _inference_flops(self) -> float:
        data = ordered_batches(self.benchmark.test_stream[0].dataset.eval(), 8)
        x, _, task_labels = next(iter(data))
        return inference_flops(self.model, x.to(self.model.device), task_labels.to(self.model.device))

    def _artifacts(self, plugins: list[Any], changed: bool) -> list[str]:
        """What has a version of its own: to predict, and to go on with the next task."""
        model = self.model
        modules = _module_bytes(model) - self._bytes
        head = 0 if model.class_head is None else tensor_bytes(_tensors(model.class_head))
        router = 0 if model.routed is None else model.routed.router.stored().total
        memory = any(isinstance(part, Memory) and len(part) for part in stateful_parts(plugins))
        found = {
            "weights": changed,
            "modules": modules > 0,
            "router": model.routed is not None,
            "head": model.class_head is not None,
            "memory": memory,
            "training state": not memory and self._stored.total > modules + head + router,
        }
        return [name for name, there in found.items() if there]


def fingerprints(model: VLM) -> frozenset[bytes]:
    """A hash of every parameter and buffer of the open_clip model, whatever it is called by now."""
    return frozenset(
        hashlib.blake2b(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data).digest()
        for tensor in _tensors(model.clip)
        if tensor.numel()
    )


def needs_task_id(model: VLM, benchmark: VLMBenchmark) -> bool:
    """Whether a prediction asks for the sample's task: to choose its module, or the classes that compete."""
    if model.routed is not None and model.routed.use_task_labels:
        return True
    space = benchmark.label_space
    return space is not None and space.visible == "task" and len(benchmark.task_names) > 1


class PeakMemory(Stateful):
    """The most memory that was in use since this was made, beyond what was in use then.

    On CUDA what torch allocated. Elsewhere what the process grew by, where the system tells (Linux), and that for the
    first run of a process alone: a later one uses again what that has left to the allocator, which is not seen. Of a
    run that several processes went on with, the most of any of them.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_most": WORKING, "_known": WORKING}

    _measured = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self._most, self._known = 0, True
        """Of earlier processes, and whether it was measured in all of them."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        if not PeakMemory._measured:
            PeakMemory._measured = True
            with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak starts anew from here
            self._before = _resident("VmRSS")

    def read(self) -> int | None:
        """In bytes; None where the system does not tell."""
        now = self._now()
        return None if now is None or not self._known else max(self._most, now)

    def state_dict(self) -> StateDict:
        found = self.read()
        return {**super().state_dict(), "_most": found or 0, "_known": found is not None}

    def _now(self) -> int | None:
        """Of this process."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - (self._before or 0)
        peak = _resident("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)


def _resident(name: str) -> int | None:
    path = f"/proc/{os.getpid()}/status"
    try:
        with open(path) as file:
            found = [line.split()[1] for line in file if line.startswith(name)]
        return 1024 * int(found[0])
    except (OSError, IndexError, ValueError):
        return None


def _module_bytes(model: VLM) -> int:
    """Of the open_clip model with what hangs in it, and of what stands in the images' way."""
    parts = [model.clip, *([] if model.image_path is None else [model.image_path])]
    return sum(tensor_bytes(_tensors(part)) for part in parts)


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) if digits else round(value)
