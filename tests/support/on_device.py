"""What is asked of the simulated device, in processes of its own: ``Asked`` starts them, this file is what they run.

The device stays with a process until its end, so each question is answered by a fork of one that has imported all that
is needed. A process that has trained cannot be forked, because autograd's threads are not copied; one that has only
imported can.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Asked:
    """A process that answers.

    >>> Asked()("planted", fault="none")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, question: str, **how: Any) -> Any:
        """The answer of one of ``QUESTIONS``.

        :raises AssertionError: if there was an exception, with where it was.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([question, how]) + "\n")
        self._process.stdin.flush()
        answer, error = json.loads(self._process.stdout.readline())
        if error:
            raise AssertionError(error)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


# In the process that answers ------------------------------------------------------------------------------------------


def trained(recipe: str, kind: str, amp: str | None = None, moved: str = "before") -> dict[str, Any]:
    """Two experiences on the device.

    :param moved: whether the model is there ``before`` the recipe is built, or goes there ``after``, with the strategy.
    :return: tensors of the model that are on the CPU at the end; whether all its weights are finite; what the host
        waited for in a step of the second experience, at most, and by line; the same of a batch of the evaluation that
        follows, and of the whole of another one, of so many data sets, each of one batch.
    """
    import torch
    from mini import shallow
    from simulated import DeviceTensor, waits
    from trained import build, short_stream

    from avalanche_vlm.evaluation.held_out import HeldOutScores
    from avalanche_vlm.evaluation.matrix import PerformanceMatrix
    from avalanche_vlm.evaluation.per_class import ClassAccuracies
    from avalanche_vlm.evaluation.views import Views
    from avalanche_vlm.training.plugins.base import VLMPlugin

    class Steps(VLMPlugin):
        """Counts from a minibatch's unpacking to the end of its update, and from that of a batch of the evaluation to
        what metrics make of it."""

        states: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.found: list[Counter[tuple[str, str]]] = []
            self.evaluated: list[Counter[tuple[str, str]]] = []

        def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.block = waits()
            self.found.append(self.block.__enter__())

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.block.__exit__(None, None, None)

        def before_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.block = waits()
            self.evaluated.append(self.block.__enter__())

        def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.block.__exit__(None, None, None)

    benchmark = short_stream(kind)
    found = build(recipe, benchmark, lambda: shallow().to("cuda") if moved == "before" else shallow())
    metrics = [PerformanceMatrix(), HeldOutScores(benchmark.held_out), ClassAccuracies(), *Views(benchmark, 4).metrics]
    strategy = _strategy(found, amp, metrics=metrics)
    first, last = Steps(), Steps()
    for experience, steps in zip(benchmark.train_stream, (first, last), strict=True):
        strategy.plugins.append(steps)
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
        strategy.plugins.remove(steps)
    with waits() as evaluated:
        strategy.eval(benchmark.test_stream)
    state = {name: of for name, of in found.model.state_dict().items() if isinstance(of, torch.Tensor)}
    worst = max(last.found, key=Counter.total, default=Counter())
    worst_eval = max(last.evaluated, key=Counter.total)
    return {
        "on the CPU": [name for name, tensor in state.items() if not isinstance(tensor, DeviceTensor)],
        "finite": all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters()),
        "waits": worst.total(),
        "lines": [[*where, number] for where, number in worst.most_common()],
        "waits of a test batch": worst_eval.total(),
        "lines of a test batch": [[*where, number] for where, number in worst_eval.most_common()],
        "waits of an evaluation": evaluated.total(),
        "lines of an evaluation": [[*where, number] for where, number in evaluated.most_common()],
        "test sets": len(benchmark.test_stream),
        "held-out sets": len(benchmark.held_out),
    }


def kept(recipe: str, kind: str, folder: str) -> dict[str, Any]:
    """Two experiences on the device, the second also by a training that goes on from a checkpoint, and the model saved
    and loaded.

    :return: from which kinds of checkpoints the scripts went on, and whether weights and answers are the same.
    """
    import torch
    from mini import shallow
    from trained import answers, build, short_stream

    from avalanche_vlm.artifacts import load, save_model
    from avalanche_vlm.training import CheckpointPlugin, resume

    benchmark = short_stream(kind)

    began = []

    def script(until: int) -> Any:
        found = build(recipe, benchmark, lambda: shallow().to("cuda"))
        checkpoints = CheckpointPlugin(f"{folder}/checkpoints")
        strategy = _strategy(found, None, checkpoints)
        first = resume(strategy, f"{folder}/checkpoints")
        began.append(None if checkpoints.position is None else checkpoints.position.stage)
        for experience in benchmark.train_stream[first:until]:
            strategy.train(experience)
        return found

    def whole() -> Any:
        found = build(recipe, benchmark, lambda: shallow().to("cuda"))
        strategy = _strategy(found, None)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        return found

    at_once, _, again = whole(), script(1), script(2)
    one, other = at_once.model.state_dict(), again.model.state_dict()
    save_model(f"{folder}/saved", at_once.model, **at_once.how)
    loaded = load(f"{folder}/saved", base=shallow(), device="cuda")
    expected, found = answers(at_once.model, benchmark), answers(loaded, benchmark)
    return {
        "began": began,
        "resumed": all(torch.equal(of, other[name]) for name, of in one.items() if isinstance(of, torch.Tensor)),
        "loaded": all(map(torch.equal, expected, found)) and len(expected) == len(found) > 0,
    }


def known() -> dict[str, Any]:
    """How often the host waits for values that it has sent to the device, and what it finds."""
    import torch
    from simulated import waits

    from avalanche_vlm import _host

    cuda = torch.device("cuda")
    sent, more = (_host.to_device(torch.tensor(of), cuda) for of in ([3, 1, 2], [7]))
    written = _host.to_device(torch.tensor([3, 1, 2]), cuda)
    written += torch.tensor([1, 0, 0], device=cuda)
    asked = {
        "sent": sent,
        "joined": _host.rows_of_all([sent, more]),
        "sliced": _host.sliced(sent, slice(1, None)),
        "written to": written,
        "computed": sent + 1,
        "images": _host.to_device(torch.ones(2), cuda),
    }
    found: dict[str, Any] = {"waits": {}, "values": {}}
    for name, tensor in asked.items():
        with waits() as counted:
            found["values"][name] = _host.on_host(tensor).tolist()
        found["waits"][name] = counted.total()
    return found


def planted(fault: str) -> str:
    """What a training with a planted fault ends in: the first line of its exception, or "nothing".

    :param fault: ``tensor`` puts a CPU tensor into the loss, ``generator`` draws with a CPU generator, ``numpy`` reads
        logits by numpy, ``loss`` makes the second loss no number, ``none`` is none.
    """
    import torch
    from trained import build, short_stream

    from avalanche_vlm.errors import InputError
    from avalanche_vlm.training.plugins.base import VLMPlugin

    class Fault(VLMPlugin):
        states: dict[str, Any] = {}  # noqa: RUF012

        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if fault == "tensor":
                strategy.loss = strategy.loss + torch.ones(2).sum(0, keepdim=True)
            if fault == "generator":
                torch.rand(2, device=strategy.device, generator=torch.Generator().manual_seed(0))
            if fault == "numpy":
                strategy.mb_output.detach().numpy()
            if fault == "loss" and strategy.clock.train_epoch_iterations == 1:
                strategy.loss = strategy.loss * float("nan")

    from mini import shallow

    benchmark = short_stream("classes")
    strategy = _strategy(build("fine-tune", benchmark, lambda: shallow().to("cuda")), None, Fault())
    try:
        strategy.train(benchmark.train_stream[0])
    except (RuntimeError, TypeError, InputError) as error:
        return str(error).splitlines()[0]
    return "nothing"


def _strategy(found: Any, amp: str | None, *plugins: Any, metrics: Any = ()) -> Any:
    import torch
    from avalanche.training.plugins import EvaluationPlugin

    from avalanche_vlm.training import VLMNaive, criterion_for

    return VLMNaive(
        model=found.model,
        optimizer=torch.optim.AdamW(found.model.parameters(), lr=1e-3),
        criterion=criterion_for(found.benchmark.kind, found.model),
        train_mb_size=16,
        train_epochs=1,
        eval_mb_size=8,
        device=torch.device("cuda"),
        plugins=[*found.plugins, *plugins],
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        **({"amp": amp} if amp else {}),
    )


def unchosen(device: str = "cuda") -> dict[str, Any]:
    """The gradients of four experts after a step in which samples chose the first two, and a penalty on weights moves
    all but the first and the last: sums by their names, None where there is none.

    :param device: where the experts are.
    """
    import torch
    from torch import nn

    from avalanche_vlm.models.modules.adapter import Adapter
    from avalanche_vlm.models.modules.experts import ExpertSite, leave_alone

    torch.manual_seed(3)
    host = nn.Linear(4, 4)
    site = ExpertSite(host, 4, [Adapter(4, bottleneck=16) for _ in range(4)], 1)
    site.add("t")
    site.active = "t"
    with torch.no_grad():
        for parameter in site.parameters():
            nn.init.normal_(parameter)
        # The first number of a sample decides, beyond any noise.
        site.bank["t"].weight.copy_(torch.tensor([[9.0, -9.0, 0.0, 0.0], *[[0.0] * 4] * 3]))
        site.bank["t"].noise.zero_()
    host, site = host.to(device), site.to(device)
    x = torch.tensor([[[9.0, 1, 2, 3]], [[-9.0, 3, 2, 1]]]).to(device)
    penalty = sum(p.square().sum() for expert in site.experts[1:3] for p in expert.parameters())
    idle = sum(0 * p.sum() for p in site.experts[3].parameters())  # moves nothing, and leaves zeros
    (host(x).square().sum() + penalty + idle).backward()
    leave_alone([site])
    return {
        name: None if p.grad is None else float(p.grad.double().sum()) for name, p in site.experts.named_parameters()
    }


QUESTIONS: dict[str, Callable[..., Any]] = {
    "trained": trained,
    "kept": kept,
    "planted": planted,
    "known": known,
    "unchosen": unchosen,
}


def _answer(question: str, how: dict[str, Any]) -> None:
    """Writes the answer, in a process that ends with it."""
    import simulated
    import torch

    out = os.dup(1)
    os.dup2(2, 1)  # what is printed meanwhile is no answer
    try:
        simulated.install()
        torch.manual_seed(0)
        said = [QUESTIONS[question](**how), None]
    except BaseException:
        said = [None, traceback.format_exc()]
    os.write(out, (json.dumps(said) + "\n").encode())
    os._exit(0)


def main() -> None:
    warnings.simplefilter("ignore")
    for module in ("mini", "trained", "avalanche_vlm.artifacts", "avalanche_vlm.artifacts.loading"):
        importlib.import_module(module)
    import torch

    from avalanche_vlm.training import recipes

    torch.set_num_threads(1)
    for name in recipes.list():
        assert callable(recipes.get(name).compose)  # which imports its module
    for line in sys.stdin:
        question, how = json.loads(line)
        child = os.fork()
        if child == 0:
            _answer(question, how)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps([None, f"the process ended with {os.waitstatus_to_exitcode(status)}"]), flush=True)


if __name__ == "__main__":
    main()
