"""The protocol of a training step: a rule takes a batch, a loss and a context, and leaves a gradient in ``.grad``."""

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context, at_least_float32
from sharpness.steps.differentiation import (
    Gradient,
    add_to_grad,
    differentiate,
    gradient_of,
    sum_grad,
    trainable,
    twice,
    whole_features,
)
from sharpness.steps.loss import Loss, mixed_loss
from sharpness.steps.perturbed import (
    RunningStatistics,
    SameNumbers,
    frozen_running_statistics,
    joint_norm,
    perturbed,
)
from sharpness.steps.rule import EpochRule, PlainStep, Rule
from sharpness.steps.shards import Shards

__all__ = [
    "Batch",
    "Context",
    "EpochRule",
    "Gradient",
    "Loss",
    "PlainStep",
    "Rule",
    "RunningStatistics",
    "SameNumbers",
    "Shards",
    "add_to_grad",
    "at_least_float32",
    "differentiate",
    "frozen_running_statistics",
    "gradient_of",
    "joint_norm",
    "mixed_loss",
    "perturbed",
    "sum_grad",
    "trainable",
    "twice",
    "whole_features",
]
