"""
Contours
========

The rise of the loss over a plane of two filter-normalised directions, with contour levels shared by all panels.
"""

import sharpness

plane = sharpness.load_result("results/plane.nc")  # sharpness.plane(models, x=(-1, 1, 31), y=(-1, 1, 31))
picture = plane.plot(of=["many", "few"], quantity="rise")
