"""The strategy of an experiment, out of its settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from avalanche.evaluation import PluginMetric
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin

from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, criterion_for
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.weights.fused import can_be_fused


def strategy_of(
    model: VLM,
    kind: str,
    settings: TrainSettings,
    plugins: Sequence[SupervisedPlugin],
    *metrics: PluginMetric,
    device: str | torch.device,
    loggers: Sequence[BaseLogger] = (),
    shard: bool = False,
) -> VLMNaive:
    """What trains a model: AdamW, fused where torch can, the task loss of the stream's kind, and an evaluator.

    :param model: the model that is trained in place; gets the templates that stand for its classes in training.
    :param kind: kind of the stream, ``"classes"`` or ``"pairs"``.
    :param settings: settings of the optimizer and of the loop.
    :param plugins: all plugins, in their order.
    :param metrics: the evaluator's metrics.
    :param device: where it trains.
    :param loggers: the evaluator's loggers.
    :param shard: whether each of several processes keeps a part of the towers.
    """
    with warnings.catch_warnings():
        # Avalanche warns that nothing is logged; what is measured is read from the metrics, or outside the strategy.
        warnings.filterwarnings("ignore", message="No loggers specified")
        # It would keep every value that a metric has told, which on long streams are more than the weights.
        evaluator = EvaluationPlugin(*metrics, loggers=list(loggers), collect_all=False)
    model.train_templates = settings.train_templates
    weights = list(model.parameters())
    return VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(
            weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=can_be_fused(weights) or None
        ),
        criterion=criterion_for(kind, model, settings.label_smoothing),
        train_mb_size=settings.batch_size * settings.accumulate,
        train_epochs=settings.epochs,
        iterations=settings.iterations,
        eval_mb_size=256,
        device=torch.device(device),
        plugins=list(plugins),
        evaluator=evaluator,
        amp=settings.amp,
        accumulate=settings.accumulate,
        grad_checkpointing=settings.grad_checkpointing,
        compile=settings.compile,
        shard=shard,
        negatives=settings.negatives,
        max_grad_norm=settings.max_grad_norm,
    )
