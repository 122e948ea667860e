"""
Line
====

The loss along one filter-normalised random direction, the same for both models, by group.
"""

import sharpness

line = sharpness.load_result("results/line.nc")  # sharpness.line(models)
picture = line.plot(of=[None, "many", "medium", "few"])
