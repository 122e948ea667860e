"""The numerical primitives: per-class loss sums, gradients and Hessian-vector products."""

from sharpness.engine.class_sums import ClassSums, PerSampleLoss, WeightedBatch, class_sums, ratio
from sharpness.engine.derivatives import gradient_sum, hvp_sum
from sharpness.engine.modules import batchnorms, classifier_prefix, filter_axes, require_eval, state_sha256

__all__ = [
    "ClassSums",
    "PerSampleLoss",
    "WeightedBatch",
    "batchnorms",
    "class_sums",
    "classifier_prefix",
    "filter_axes",
    "gradient_sum",
    "hvp_sum",
    "ratio",
    "require_eval",
    "state_sha256",
]
