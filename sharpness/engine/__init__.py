"""Numerical primitives: per-class loss sums, gradients and exact Hessian-vector products."""

from sharpness.engine import distributed
from sharpness.engine.class_sums import (
    ClassSums,
    PerSampleLoss,
    SampleSums,
    WeightedBatch,
    class_sums,
    cross_entropy,
    mean_error,
    ratio,
    require_one_each,
    sample_rows,
    share_error,
)
from sharpness.engine.devices import exact_float32, full_precision, resolve_device
from sharpness.engine.double_backward import slopes
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.flops import fast_bfloat16, forward_flops
from sharpness.engine.memory import even_batch, fastest_batch, memory_budget, node_shared_by
from sharpness.engine.modules import (
    Outputs,
    Recalibrated,
    batchnorms,
    buffers_kept,
    how_to_pick,
    in_full_precision,
    recalibrate,
    require_eval,
    require_numbers,
    state_sha256,
    told_return,
)
from sharpness.engine.neighbours import few_samples, first_difference, require_independent
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products
from sharpness.engine.program import Untraceable
from sharpness.engine.scope import filter_axes, hidden_noticed, parameters_in_scope
from sharpness.engine.second_order import KINDS, SecondOrder
from sharpness.engine.tracing import first_line, structure
from sharpness.engine.undisturbed import seeded, undisturbed, without_autocast
from sharpness.engine.workers import Here, Workers, side_by_side

__all__ = [
    "KINDS",
    "ClassSums",
    "CurvatureOperator",
    "Evaluation",
    "Here",
    "Outputs",
    "PerSampleLoss",
    "SampleSums",
    "Products",
    "Recalibrated",
    "SecondOrder",
    "Untraceable",
    "WeightedBatch",
    "Workers",
    "batchnorms",
    "buffers_kept",
    "class_sums",
    "cross_entropy",
    "distributed",
    "even_batch",
    "exact_float32",
    "fast_bfloat16",
    "fastest_batch",
    "few_samples",
    "filter_axes",
    "first_difference",
    "first_line",
    "forward_flops",
    "full_precision",
    "mean_error",
    "hidden_noticed",
    "how_to_pick",
    "in_full_precision",
    "memory_budget",
    "node_shared_by",
    "parameters_in_scope",
    "ratio",
    "require_one_each",
    "sample_rows",
    "share_error",
    "recalibrate",
    "require_eval",
    "require_independent",
    "require_numbers",
    "resolve_device",
    "seeded",
    "side_by_side",
    "undisturbed",
    "without_autocast",
    "slopes",
    "state_sha256",
    "structure",
    "told_return",
]
