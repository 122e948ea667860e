"""Numerical primitives: per-class loss sums, gradients and exact Hessian-vector products."""
