"""
Line
====

The loss of each group along a filter-normalised random direction that both models share.
"""

import sharpness

line = sharpness.load_result("results/line.nc")  # sharpness.line(models)
picture = line.plot(of=[None, "many", "medium", "few"])
