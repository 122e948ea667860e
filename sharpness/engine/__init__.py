"""The numerical primitives: per-class loss sums, gradients and Hessian-vector products."""

from sharpness.engine.class_sums import ClassSums, PerSampleLoss, WeightedBatch, class_sums, ratio
from sharpness.engine.derivatives import gradient_sum, hvp_sum

__all__ = ["ClassSums", "PerSampleLoss", "WeightedBatch", "class_sums", "gradient_sum", "hvp_sum", "ratio"]
