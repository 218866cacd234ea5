"""What a quadratic penalty on all weights of a CLIP costs: value and gradient, in three ways.

    python benchmarks/penalty_cost.py            # --model tiny, --rounds 20

Ours (``losses.penalty.add_quadratic_penalty``: both in one pass after the backward pass), the same sum left to autograd
(``quadratic_penalty``), and a gradient that foreach adds after the backward pass, which has no value. Processor time of
one thread above that of a backward pass without a penalty, all four in turn; every gradient is made anew, as in a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from avalanche_vlm.losses.penalty import add_quadratic_penalty, quadratic_penalty
from avalanche_vlm.models import create_vlm

Weights = dict[str, torch.Tensor]


def penalties(weights: Weights, anchor: Weights, importance: Weights | None) -> dict[str, Callable[[], None]]:
    """A backward pass without a penalty, and with one in each way."""
    all_weights, where = list(weights.values()), list(anchor.values())

    def loss() -> torch.Tensor:
        return torch.stack([weight.square().sum() for weight in all_weights]).sum()

    def left_to_autograd() -> None:
        (loss() + quadratic_penalty(weights, anchor, importance)).backward()

    def ours() -> None:
        loss().backward()
        add_quadratic_penalty(weights, anchor, importance)

    def added() -> None:
        loss().backward()
        away = torch._foreach_sub([weight.detach() for weight in all_weights], where)
        if importance is not None:
            torch._foreach_mul_(away, list(importance.values()))
        torch._foreach_add_([weight.grad for weight in all_weights], away, alpha=2.0)

    return {
        "none": lambda: loss().backward(),
        "ours": ours,
        "autograd": left_to_autograd,
        "foreach": added,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = create_vlm(options.model, "random")
    weights: Weights = {name: weight for name, weight in model.clip.named_parameters() if weight.requires_grad}
    anchor = {name: weight.detach() + 1e-3 for name, weight in weights.items()}
    for of, importance in (("1", None), ("F", {name: torch.rand_like(weight) for name, weight in weights.items()})):
        spent: dict[str, list[float]] = {}
        for _ in range(options.rounds + 1):
            for way, run in penalties(weights, anchor, importance).items():
                for weight in weights.values():
                    weight.grad = None
                started = time.process_time()
                run()
                spent.setdefault(way, []).append(1000 * (time.process_time() - started))
        none = spent.pop("none")[1:]
        above = {way: statistics.median(a - b for a, b in zip(ms[1:], none, strict=True)) for way, ms in spent.items()}
        print(f"importance {of}: " + ", ".join(f"{way} {ms:.1f} ms" for way, ms in above.items()))


if __name__ == "__main__":
    main()
