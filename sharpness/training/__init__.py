"""Training: the loop, precision, and exact resume."""

from sharpness.training.loop import evaluate, fingerprint, train

__all__ = ["evaluate", "fingerprint", "train"]
