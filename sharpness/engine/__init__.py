"""Numerical primitives: per-class loss sums, gradients and exact Hessian-vector products."""

from typing import TYPE_CHECKING

from sharpness.engine import distributed
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products
from sharpness.renamed import moved_names

__all__ = ["CurvatureOperator", "Evaluation", "Products", "distributed"]

if not TYPE_CHECKING:  # type checkers would accept any name as one of this package
    __getattr__ = moved_names(
        __name__,
        class_sums="ClassSums PerSampleLoss SampleSums WeightedBatch cross_entropy mean_error ratio require_one_each "
        "sample_rows share_error",
        devices="exact_float32 full_precision resolve_device",
        double_backward="slopes",
        flops="fast_bfloat16 forward_flops",
        memory="even_batch fastest_batch memory_budget node_shared_by",
        modules="Outputs Recalibrated batchnorms buffers_kept how_to_pick in_full_precision recalibrate require_eval "
        "require_numbers state_sha256 told_return",
        neighbours="few_samples first_difference require_independent",
        program="Untraceable",
        scope="filter_axes hidden_noticed parameters_in_scope",
        second_order="KINDS SecondOrder",
        threads="Here Workers side_by_side",
        tracing="first_line structure",
        undisturbed="seeded without_autocast",
    )
