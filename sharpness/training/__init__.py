"""Training: the loop, precision, and exact resume."""

from sharpness.training.loop import evaluate, train

__all__ = ["evaluate", "train"]
