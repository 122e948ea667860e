"""Numerical primitives: per-class loss sums, gradients and exact Hessian-vector products."""

from sharpness.engine import distributed
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products

__all__ = ["CurvatureOperator", "Evaluation", "Products", "distributed"]
