"""
Minimum or saddle?
==================

max(0, -λmin) / λmax of every class: 0 at a minimum, 1 where it curves downwards as much as upwards.
"""

import sharpness

picture = sharpness.load_result("results/eigenvalues.nc").plot(end="saddle")
