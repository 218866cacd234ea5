"""In what numbers a model's weights are. Nothing heavy is imported here, as the command line names them."""

from __future__ import annotations

from typing import Literal, get_args

WeightPrecision = Literal["fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"]
"""Weights in 32 bits; weights of layers in 16 and those of norms in 32; all weights in 16 bits. Open_clip's names."""

PRECISIONS: tuple[WeightPrecision, ...] = get_args(WeightPrecision)
"""All of :data:`WeightPrecision`."""
