"""Training: the loop, precision, and exact resume."""

from sharpness.training.epoch import evaluate
from sharpness.training.loop import train
from sharpness.training.state import run_name

__all__ = ["evaluate", "run_name", "train"]
