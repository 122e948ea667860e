"""
Both ends of every class's spectrum
===================================

The largest and smallest Hessian eigenvalues of each class's own loss, with 95 % intervals over its images.
"""

import sharpness

ends = sharpness.load_result(
    "results/eigenvalues.nc"
)  # sharpness.eigenvalues(models, which="both", per_class=True, ...)
picture = ends.plot(linthresh=1)
