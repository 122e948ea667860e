"""The numerical primitives: per-class loss sums, gradients and products with the Hessian, fast and exact."""

from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums, PerSampleLoss, WeightedBatch, class_sums, ratio
from sharpness.engine.devices import resolve_device
from sharpness.engine.double_backward import quadratic_forms
from sharpness.engine.memory import even_batch, fastest_batch, memory_budget
from sharpness.engine.modules import batchnorms, filter_axes, parameters_in_scope, require_eval, state_sha256
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.second_order import KINDS, Products, SecondOrder

__all__ = [
    "KINDS",
    "ClassSums",
    "CurvatureOperator",
    "PerSampleLoss",
    "Products",
    "SecondOrder",
    "WeightedBatch",
    "batchnorms",
    "class_sums",
    "distributed",
    "even_batch",
    "fastest_batch",
    "filter_axes",
    "memory_budget",
    "parameters_in_scope",
    "quadratic_forms",
    "ratio",
    "require_eval",
    "resolve_device",
    "state_sha256",
]
