"""
Minimum or saddle?
==================

max(0, -λmin) / λmax for every class: 0 at a minimum, 1 if the loss curves downwards as much as upwards.
"""

import sharpness

picture = sharpness.load_result("results/eigenvalues.nc").plot(end="saddle")
