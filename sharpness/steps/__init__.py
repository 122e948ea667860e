"""The protocol of a training step: a rule takes a batch, a loss and a context, and leaves a gradient to step with."""

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context, at_least_float32
from sharpness.steps.loss import Loss, mixed_loss
from sharpness.steps.perturbed import frozen_running_statistics, joint_norm, perturbed
from sharpness.steps.rule import EpochRule, PlainStep, Rule

__all__ = [
    "Batch",
    "Context",
    "EpochRule",
    "Loss",
    "PlainStep",
    "Rule",
    "at_least_float32",
    "frozen_running_statistics",
    "joint_norm",
    "mixed_loss",
    "perturbed",
]
