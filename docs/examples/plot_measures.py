"""
Overview of all measures
========================

Accuracy and three kinds of sharpness of every class, with 95 % intervals: a good first plot for a set of models.
"""

import sharpness

table = sharpness.load_result("results/table.nc")  # sharpness.measure({"CE": ..., "CC-SAM": ...}).save(...)
picture = table.plot(measure="all")
