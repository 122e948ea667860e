"""Reports of saved results."""

from sharpness.reporting.report import Report, report

__all__ = ["Report", "report"]
